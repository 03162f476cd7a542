"""What stands around slime's flags when a whole command is pasted: ``ray job submit … -- python3 train.py …``."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from controlplane.jobs.flags.flag import Flag
from controlplane.jobs.flags.table import TABLE

PROGRAMS = ("train.py", "train_async.py")
_ENVIRONMENT = "--runtime-env-json"
_SIGN = re.compile(r"(?P<ends>\|\||\|&?|&&?|;)|(?:\d+|&)?>>?(?P<target>&?[\w./~$-][^\s<>|&]*)?|<(?P<source>/dev/\w+)?")
"""What ends a shell's command, or is a redirection, whose file may be the next word."""
_ANY_TEXTS = "--rollout-stop"
"""Its values may look like a shell's signs, and there may be several."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    words: tuple[str, ...]
    """slime's own flags."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the spec that what stands before them decides."""
    remarks: tuple[str, ...] = ()


def read_command_line(argv: Sequence[str]) -> CommandLine:
    at = next((at for at, word in enumerate(argv) if PurePosixPath(word).name in PROGRAMS), None)
    if at is None:
        words, remarks = _without_shell(argv)
        return CommandLine(tuple(words[1:] if words[:1] == ["--"] else words), remarks=tuple(remarks))
    words, remarks = _without_shell(argv[at + 1 :])
    if PurePosixPath(argv[at]).name == "train_async.py":
        remarks.append("train_async.py: rollouts and training take turns here; none is generated ahead")
    settings, left_out = _environment([word for word in argv[:at] if word.strip() not in ("\\", "")])
    return CommandLine(tuple(words), settings, (*remarks, *left_out))


def _without_shell(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without those that a shell would not have passed on, and a remark about them."""
    kept: list[str] = []
    left_out: list[str] = []
    last_flag = max((at for at, word in enumerate(words) if word.startswith("--")), default=-1)
    flag: Flag | None = None
    values = at = 0
    while at < len(words):
        word, at = words[at], at + 1
        takes_text = flag is not None and flag.takes.type == "str" and (flag.takes.many or not values)
        if word.strip() == "\\" or not (word.strip() or takes_text):
            continue  # a continuation that was pasted into one line
        sign = _SIGN.fullmatch(word)
        bare = sign is not None and not (sign["target"] or sign["source"])
        goes_on = at <= last_flag or (bare and at == len(words))
        # Where a text is missing, a sign is that text; among several texts, where it cannot be a shell's.
        if sign and not (takes_text and (not values or (flag is TABLE[_ANY_TEXTS] and goes_on))):
            end = len(words) if sign["ends"] else at + bare
            left_out += words[at - 1 : end]
            at = end
            continue
        kept.append(word)
        flag, values = (TABLE.get(word), 0) if word.startswith("--") else (flag, values + 1)
    remark = f"left out, as a shell would not pass it on: {' '.join(left_out):.200}"
    return kept, [remark] if left_out else []


def _environment(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The variables of ``--runtime-env-json``."""
    text = ""
    for at, word in enumerate(words):
        name, assigned, value = word.partition("=")
        if name == _ENVIRONMENT:
            text = value if assigned else words[at + 1] if at + 1 < len(words) else ""
    if not text:
        return {}, []
    try:
        found: Any = json.loads(text)
        variables: dict[str, str] = {str(name): str(value) for name, value in found.get("env_vars", {}).items()}
    except (ValueError, AttributeError):
        return {}, [f"{_ENVIRONMENT}: left out, as it is no JSON object: set runtime.env_vars (--train-env-vars)"]
    open_ended = {name: value for name, value in variables.items() if "$" in value}
    remarks = [
        f"{_ENVIRONMENT}: {name} is left out: a shell would fill in {value}" for name, value in open_ended.items()
    ]
    kept = {name: value for name, value in variables.items() if name not in open_ended}
    places = [place for place in kept.pop("PYTHONPATH", "").split(":") if place]
    settings: dict[str, Any] = {}
    if kept:
        settings["runtime.env_vars"] = kept
    if places:
        settings["runtime.python_path"] = places
    return settings, remarks
