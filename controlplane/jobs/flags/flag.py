"""One of slime's flags: what it takes, and what becomes of it here."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

type Primitive = Literal["on", "toggle", "int", "float", "str", "json"]


class Kind(StrEnum):
    SAME = "same"
    """A field of the same name does the same."""
    RENAMED = "renamed"
    """A field of another name does the same."""
    DIFFERS = "differs"
    """It has an effect, and ``why`` says in what it is another one."""
    IGNORED = "ignored"
    """Accepted without effect; ``why`` says why it needs none."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Takes:
    """What follows a flag."""

    type: Primitive
    many: bool = False
    choices: tuple[str, ...] = ()

    @property
    def values(self) -> bool:
        return self.type not in ("on", "toggle")

    def read(self, text: str) -> Any:
        """One value. Raises ValueError, which says what would do."""
        if self.choices and text not in self.choices:
            raise ValueError(f"takes one of {', '.join(self.choices)}, not {text!r}")
        try:
            if self.type == "int":
                return int(text)
            if self.type == "float":
                return float(text)
            return json.loads(text) if self.type == "json" else text
        except ValueError:
            wanted = {"int": "a whole number", "float": "a number", "json": "JSON"}[self.type]
            raise ValueError(f"takes {wanted}, not {text!r}") from None

    def __str__(self) -> str:
        if self.choices:
            return " \\| ".join(self.choices)
        word = {"on": "", "toggle": "or `--no-…`", "int": "int", "float": "float", "str": "text", "json": "JSON"}
        return word[self.type] + (" …" if self.many else "")


ON = Takes("on")
TOGGLE = Takes("toggle")
INT, INTS = Takes("int"), Takes("int", many=True)
FLOAT = Takes("float")
TEXT, TEXTS = Takes("str"), Takes("str", many=True)
JSON = Takes("json")


def one_of(*choices: str) -> Takes:
    return Takes("str", choices=choices)


@dataclass(frozen=True, slots=True)
class Flag:
    name: str
    takes: Takes
    kind: Kind
    fields: tuple[str, ...] = ()
    """Of the job spec, that it decides or has a part in deciding."""
    default: Any = None
    """slime's, where the flag is not given."""
    why: str = ""
    secret: bool = False
    """Its value is shown nowhere."""

    @property
    def direct(self) -> bool:
        """Whether its value is its field's."""
        return self.kind in (Kind.SAME, Kind.RENAMED)


def maps(name: str, takes: Takes, field: str, default: Any = None) -> Flag:
    """The value becomes the field's."""
    same = field.rpartition(".")[2] == name.removeprefix("--").replace("-", "_")
    return Flag(name, takes, Kind.SAME if same else Kind.RENAMED, (field,), default)


def differs(name: str, takes: Takes, fields: str | tuple[str, ...], why: str, default: Any = None) -> Flag:
    return Flag(name, takes, Kind.DIFFERS, (fields,) if isinstance(fields, str) else fields, default, why)


def ignored(name: str, takes: Takes, why: str, *, secret: bool = False) -> Flag:
    return Flag(name, takes, Kind.IGNORED, why=why, secret=secret)


def refused(name: str, takes: Takes, why: str, *, secret: bool = False) -> Flag:
    return Flag(name, takes, Kind.REFUSED, why=why, secret=secret)
