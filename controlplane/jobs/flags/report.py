"""What became of each flag of a command line."""

from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    SET = "set"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """One flag as it was given; one that was given twice has two."""

    flag: str
    values: tuple[str, ...]
    """As they were typed; a secret is not among them."""
    outcome: Outcome
    fields: tuple[str, ...] = ()
    """Of the job spec, that it set."""
    why: str = ""
    suggestion: str | None = None
    """Of a refused flag: what was probably meant."""

    @property
    def text(self) -> str:
        return " ".join((self.flag, *self.values))


@dataclass(frozen=True, slots=True)
class Default:
    """A field that no flag set, and that slime has another default for than a spec has."""

    field: str
    value: object
    flag: str


@dataclass(frozen=True, slots=True)
class Report:
    entries: tuple[Entry, ...]
    """In the order of the command line."""
    defaults: tuple[Default, ...]
    remarks: tuple[str, ...]
    """About the whole: what is not one flag's affair."""

    @property
    def refused(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.outcome is Outcome.REFUSED)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of a command line that was accepted."""
        ignored = (f"{entry.text}: ignored: {entry.why}" for entry in self.entries if entry.outcome is Outcome.IGNORED)
        differing = (
            f"{entry.text}: {entry.why}" for entry in self.entries if entry.outcome is Outcome.SET and entry.why
        )
        return tuple(dict.fromkeys((*self.remarks, *differing, *ignored)))

    def setters(self, field: str, *, parts: bool = True, named: Container[str] | None = None) -> tuple[str, ...]:
        """The flags that set ``field``, or, with ``parts``, something in it: of those alone whose own name is among
        ``named``, if that is given."""
        prefix = f"{field}." if field else ""
        found = (
            entry.flag
            for entry in self.entries
            if entry.outcome is Outcome.SET
            and any(
                (each == field or (parts and each.startswith(prefix)))
                and (named is None or each.rpartition(".")[2] in named)
                for each in entry.fields
            )
        )
        return tuple(dict.fromkeys(found))
