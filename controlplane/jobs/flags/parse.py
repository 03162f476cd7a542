"""From words to flags with values: slime's own, ``--sglang-X``, and Megatron's."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from controlplane.jobs.flags.flag import Flag, Kind
from controlplane.jobs.flags.given import Given, Use
from controlplane.jobs.flags.manifests import Manifests
from controlplane.jobs.flags.table import TABLE
from engines.option_manifest import Option

SGLANG = "--sglang-"
_NEGATIVE_NUMBER = re.compile(r"^-(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$")
_MOST_SUGGESTIONS = 50
"""Each is looked for among all flags, which takes some milliseconds."""
_ELSEWHERE = {
    "--learning-rate": "--lr",
    "--model-name-or-path": "--hf-checkpoint",
    "--model-path": "--hf-checkpoint",
    "--output-dir": "--save",
    "--num-train-epochs": "--num-epoch",
    "--max-new-tokens": "--rollout-max-response-len",
    "--max-tokens": "--rollout-max-response-len",
    "--temperature": "--rollout-temperature",
    "--beta": "--kl-loss-coef",
}
"""What other trainers call it, where the spelling would lead astray."""
_SHELL = re.compile(r"\$(\w+|\{[^}]*\}|\(.*\))")


def parse(words: Sequence[str], manifests: Manifests) -> Given:
    """Read a command line without the program before it. What cannot be read is a use with a problem."""
    return Given(tuple(_uses(words, manifests)))


def _uses(words: Sequence[str], manifests: Manifests) -> Iterator[Use]:
    at = unknown = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not _is_flag(word):
            problem = "stands alone: a flag begins with --, and a value with spaces in it is quoted"
            yield Use(word, word, (), problem=_unexpanded(word) or problem)
            continue
        spelled, assigned, text = word.partition("=")
        following: list[str] = [text] if assigned else []
        if not assigned:
            while at < len(words) and not _is_flag(words[at]):
                following.append(words[at])
                at += 1
        use, taken = _use(spelled, tuple(following), manifests, suggests=unknown < _MOST_SUGGESTIONS)
        unknown += use.known is None and use.option is None
        if not assigned:
            at -= len(following) - taken
        elif not taken:
            use = replace(use, texts=(text,), problem=use.problem or "takes no value: leave the flag out to not set it")
        yield use


def _is_flag(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NEGATIVE_NUMBER.match(word)


def _use(spelled: str, texts: tuple[str, ...], manifests: Manifests, *, suggests: bool) -> tuple[Use, int]:
    """The use, and how many of ``texts`` belong to it."""
    if known := TABLE.get(spelled):
        return _slimes(known, spelled, texts, cleared=False)
    if (known := TABLE.get(spelled.replace("--no-", "--", 1))) and known.takes.type == "toggle":
        return _slimes(known, spelled, texts, cleared=True)
    if spelled.startswith(SGLANG):
        option = manifests.sglang.by_flag("--" + spelled.removeprefix(SGLANG))
    else:
        option = manifests.megatron.by_flag(spelled)
    if option is not None:
        return _programs(option, spelled, texts)
    if (first := spelled.split()[0]) != spelled and first.startswith("-"):
        return Use(spelled, spelled, texts, problem="one word: pass a flag and each of its values by themselves"), len(
            texts
        )
    suggestion = _nearest(spelled, manifests) if suggests else None
    hint = f"did you mean {suggestion}?" if suggestion else "docs/slime-flags.md says which there are"
    shell = _first(texts)
    return Use(
        spelled, spelled, texts, problem=f"there is no such flag; {hint}{shell and '; '}{shell}", suggestion=suggestion
    ), len(texts)


def _slimes(known: Flag, spelled: str, texts: tuple[str, ...], *, cleared: bool) -> tuple[Use, int]:
    takes = known.takes
    if not takes.values:
        return Use(known.name, spelled, (), not cleared, known), 0
    texts = texts if takes.many else texts[:1]
    if not texts:
        return Use(known.name, spelled, (), known=known, problem="a value is missing"), 0
    if problem := _first(texts) or _empty(texts):
        if known.kind is Kind.IGNORED:  # no value of it matters: this one is of a variable that is not set
            problem = ""
        return Use(known.name, spelled, texts, known=known, problem=problem), len(texts)
    try:
        values = [takes.read(text) for text in texts]
    except ValueError as error:
        return Use(known.name, spelled, texts, known=known, problem=str(error)), len(texts)
    return Use(known.name, spelled, texts, values if takes.many else values[0], known), len(texts)


def _empty(texts: Sequence[str]) -> str:
    """What is wrong with an empty text, which is mostly a variable that is not set."""
    return "its value is an empty text: give one, or leave the flag out" if "" in texts else ""


def _programs(option: Option, spelled: str, texts: tuple[str, ...]) -> tuple[Use, int]:
    if option.kind in ("on", "off", "toggle", "const"):
        cleared = option.kind == "off" or (option.kind == "toggle" and "--no-" in spelled)
        return Use(spelled, spelled, (), not cleared, option=option), 0
    texts = texts[: _most(option)]
    problem = _first(texts)
    if not problem and len(texts) < _least(option):
        problem = "a value is missing" if option.nargs in (None, "+") else f"takes {option.nargs} values"
    if not problem:
        try:
            values = [option.read(text) for text in texts]
            value = values if option.nargs not in (None, "?") else values[0] if values else True
            return Use(spelled, spelled, texts, value, option=option), len(texts)
        except ValueError as error:
            problem = str(error)
    return Use(spelled, spelled, texts, option=option, problem=problem), len(texts)


def _least(option: Option) -> int:
    return option.nargs if isinstance(option.nargs, int) else 0 if option.nargs in ("*", "?") else 1


def _most(option: Option) -> int | None:
    return option.nargs if isinstance(option.nargs, int) else None if option.nargs in ("*", "+") else 1


def _unexpanded(text: str) -> str:
    found = _SHELL.search(text)
    return f"{found.group()} is for a shell to fill in: give the value itself" if found else ""


def _first(texts: Sequence[str]) -> str:
    """What is wrong with the first text that a shell should have filled in; empty if none is."""
    return next((problem for text in texts if (problem := _unexpanded(text))), "")


def _nearest(spelled: str, manifests: Manifests) -> str | None:
    sglang = [SGLANG + flag.removeprefix("--") for flag in manifests.sglang.flags]
    own = [flag for flag in TABLE if flag.startswith(SGLANG)]
    candidates = [*own, *sglang] if spelled.startswith(SGLANG) else [*TABLE, *manifests.megatron.flags, *sglang]
    dashed = spelled.replace("_", "-")
    if dashed in _ELSEWHERE:
        return _ELSEWHERE[dashed]
    longer = [flag for flag in candidates if flag.startswith(dashed)]
    if dashed in candidates or len(longer) == 1:
        return dashed if dashed in candidates else longer[0]
    if (of_sglang := SGLANG + dashed.lstrip("-")) in candidates:
        return of_sglang
    names = {flag.removeprefix("--"): flag for flag in candidates}  # the dashes are no likeness
    near = difflib.get_close_matches(dashed.lstrip("-"), names, n=1, cutoff=0.6)
    return names[near[0]] if near else None
