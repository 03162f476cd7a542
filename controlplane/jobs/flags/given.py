"""The flags of a command line, read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.jobs.flags.flag import Flag
from controlplane.jobs.flags.table import TABLE
from engines.option_manifest import Option


@dataclass(frozen=True, slots=True)
class Use:
    """One flag with its values. Either it is one of slime's own, or it sets an option of Megatron or SGLang, or it
    has a problem."""

    flag: str
    """By the name that the table or the program has it."""
    spelled: str
    texts: tuple[str, ...]
    value: Any = None
    known: Flag | None = None
    option: Option | None = None
    problem: str = ""
    suggestion: str | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        return ("***",) if self.known is not None and self.known.secret and self.texts else self.texts


class Given:
    """All flags; of one that is given twice the last holds, as argparse has it."""

    def __init__(self, uses: Sequence[Use]) -> None:
        self.uses = tuple(uses)
        self._last = {_key(use): use for use in uses if not use.problem}
        self._by_flag = {use.flag: use for use in self._last.values()}

    def __contains__(self, flag: str) -> bool:
        return flag in self._by_flag

    def __getitem__(self, flag: str) -> Any:
        """The value, or slime's default."""
        return self._by_flag[flag].value if flag in self._by_flag else TABLE[flag].default

    def holds(self, use: Use) -> bool:
        return self._last.get(_key(use)) is use

    @property
    def holding(self) -> tuple[Use, ...]:
        return tuple(use for use in self.uses if not use.problem and self.holds(use))


def _key(use: Use) -> str:
    """Two flags that set one option are one flag given twice."""
    if use.option is None:
        return use.flag
    program = "sglang" if use.flag.startswith("--sglang-") else "megatron"
    return f"{program}:{use.option.dest}"
