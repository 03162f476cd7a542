"""From a command line to a job spec, with an account of every flag."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.jobs.flags.command_line import read_command_line
from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.fields import UNSET, default_of
from controlplane.jobs.flags.flag import Kind
from controlplane.jobs.flags.given import Given
from controlplane.jobs.flags.manifests import Manifests
from controlplane.jobs.flags.options import place
from controlplane.jobs.flags.parse import parse
from controlplane.jobs.flags.report import Report
from controlplane.jobs.flags.rules import RULES
from controlplane.jobs.flags.rules.algorithm import uses_engines
from controlplane.jobs.flags.table import TABLE

REQUIRED = ("--hf-checkpoint", "--prompt-data", "--rollout-batch-size", "--num-rollout", "--rollout-num-gpus")


@dataclass(frozen=True, slots=True)
class Translation:
    spec: dict[str, Any]
    """Not yet validated; of no use if the report has refused flags or something is missing."""
    report: Report
    missing: tuple[str, ...]
    """Flags that must be given and are not."""


def translate(argv: Sequence[str], manifests: Manifests, files: Mapping[str, str] | None = None) -> Translation:
    """slime's command line as a job spec. ``files``: the text of the YAML files that flags name, by path.

    Raises nothing for a wrong command line: each flag's outcome is in the report.
    """
    line = read_command_line(argv)
    given = parse(line.words, manifests)
    draft = Draft(given)
    for text in line.remarks:
        draft.remark(text)
    for field, value in line.settings.items():
        draft.set(field, value)
    _programs_own(given, manifests, draft)
    _table(given, draft)
    for rule in RULES:
        rule(given, draft, files or {})
    _direct(given, draft)
    return Translation(draft.spec, draft.report(), _missing(given))


def _programs_own(given: Given, manifests: Manifests, draft: Draft) -> None:
    for use in given.holding:
        if use.option is not None:
            place(use, use.option, manifests, draft)


def _table(given: Given, draft: Draft) -> None:
    """What the table alone decides, for the rules to read."""
    for use in given.holding:
        if use.known is None:
            continue
        if use.known.kind is Kind.IGNORED:
            draft.ignore(use.flag, use.known.why)
        elif use.known.kind is Kind.REFUSED:
            draft.refuse(use.flag, use.known.why)
        elif use.known.direct and use.known.fields[0].startswith(("rollout.", "data.", "trainer.")):
            draft.set(use.known.fields[0], use.value, use.flag)
    for flag in TABLE.values():
        if flag.direct and flag.default is not None and flag.name not in given:
            (field,) = flag.fields
            if _differs(field, flag.default):
                draft.default(field, flag.default, flag.name)


def _direct(given: Given, draft: Draft) -> None:
    """What no rule has touched."""
    for use in given.holding:
        if use.known is not None and use.known.direct and not draft.settled(use.flag):
            draft.set(use.known.fields[0], use.value, use.flag)


def _differs(field: str, default: Any) -> bool:
    own = default_of(field)
    return own is UNSET or own != default


def _missing(given: Given) -> tuple[str, ...]:
    optional = {"--rollout-num-gpus"} if not uses_engines(given) or "--colocate" in given else set[str]()
    if "--num-epoch" in given:
        optional.add("--num-rollout")
    for use in given.uses:
        if use.problem:  # it says itself what is wrong
            optional |= {use.flag, use.suggestion or use.flag}
    return tuple(flag for flag in REQUIRED if flag not in given and flag not in optional)
