"""What stands around slime's flags when a whole command is pasted: ``ray job submit … -- python3 train.py …``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

PROGRAMS = ("train.py", "train_async.py")
_ENVIRONMENT = "--runtime-env-json"


@dataclass(frozen=True, slots=True)
class CommandLine:
    words: tuple[str, ...]
    """slime's own flags."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the spec that what stands before them decides."""
    remarks: tuple[str, ...] = ()


def read_command_line(argv: Sequence[str]) -> CommandLine:
    words = [word for word in argv if word.strip() not in ("\\", "")]  # a continuation that was pasted into one line
    at = next((at for at, word in enumerate(words) if PurePosixPath(word).name in PROGRAMS), None)
    if at is None:
        return CommandLine(tuple(words[1:] if words[:1] == ["--"] else words))
    remarks: list[str] = []
    if PurePosixPath(words[at]).name == "train_async.py":
        remarks.append("train_async.py: rollouts and training take turns here; none is generated ahead")
    settings, left_out = _environment(words[:at])
    return CommandLine(tuple(words[at + 1 :]), settings, (*remarks, *left_out))


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
