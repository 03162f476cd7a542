"""What a command line takes, as data: so that a process without Megatron or SGLang can read and check their options."""

import argparse
import difflib
import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

type Kind = Literal["value", "on", "off", "toggle", "const", "append"]
"""What an option does: takes a value or several; sets true; sets false; is set by ``--x`` and cleared by ``--no-x``;
sets a constant; adds a value to a list."""

type ValueType = Literal["int", "float", "str", "bool", "json", "text"]
"""``text`` is read by a function of the parser's own."""


@dataclass(frozen=True, slots=True)
class Option:
    dest: str
    """The Python name of what it sets."""
    flags: tuple[str, ...]
    kind: Kind
    type: ValueType
    nargs: int | str | None
    choices: tuple[int | str, ...] | None
    default: Any
    group: str
    """The heading under which the parser has it."""

    @property
    def names(self) -> tuple[str, ...]:
        """How a spec may call it: by what it sets, or by one of its flags."""
        return tuple(dict.fromkeys((self.dest, *(python_name(flag) for flag in self.flags))))

    def read(self, text: str) -> Any:
        """One value as a command line has it. Raises ValueError, which says what would do."""
        value = self._read(text)
        if self.choices is not None and value not in self.choices:
            raise ValueError(f"takes one of {', '.join(map(str, self.choices))}, not {text!r}")
        return value

    def _read(self, text: str) -> Any:
        try:
            match self.type:
                case "int":
                    return int(text)
                case "float":
                    return float(text)
                case "json":
                    return json.loads(text)
                case "bool":
                    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
                case "text":
                    return int(text) if text.isdecimal() else text
                case "str":
                    return text
        except (ValueError, KeyError):
            wanted = {"int": "a whole number", "float": "a number", "json": "JSON", "bool": "true or false"}
            raise ValueError(f"takes {wanted[self.type]}, not {text!r}") from None

    def problem(self, value: Any) -> str | None:
        """What is wrong with ``value`` in a spec; None: nothing. Text that reads as the value will do."""
        if value is None:
            return None
        if self.kind != "value" and self.kind != "append":
            return None if isinstance(value, bool) else f"takes true or false, not {value!r}"
        if self.nargs not in (None, "?") and isinstance(value, list | tuple):
            values: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
            if isinstance(self.nargs, int) and len(values) != self.nargs:
                return f"takes {self.nargs} values, not {len(values)}"
            return next(filter(None, map(self._problem, values)), None)
        return self._problem(value)

    def _problem(self, value: Any) -> str | None:
        if self.type == "json" or (self.type == "bool" and isinstance(value, bool)):
            return None
        if self.nargs == "?" and isinstance(value, bool):
            return None
        if isinstance(value, bool):
            return f"takes a value, not {str(value).lower()}"
        if isinstance(value, dict | list | tuple):
            # A parser's own function reads JSON as often as not.
            return None if self.type in ("text", "str") else f"takes one value, not {value!r:.80}"
        try:
            self.read(value if isinstance(value, str) else str(value))
        except ValueError as error:
            if self.type == "int" and isinstance(value, float) and value.is_integer():
                return None
            return str(error)
        return None


@dataclass(frozen=True, slots=True)
class Manifest:
    program: str
    release: str
    options: tuple[Option, ...]
    _by_flag: dict[str, Option] = field(init=False, repr=False, compare=False)
    _by_name: dict[str, Option] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_flag = {flag: option for option in self.options for flag in option.flags}
        by_name = {python_name(flag): option for flag, option in by_flag.items()}
        for option in self.options:  # a flag's own name goes before what another one sets
            by_name.setdefault(option.dest, option)
        object.__setattr__(self, "_by_flag", by_flag)
        object.__setattr__(self, "_by_name", by_name)

    def by_flag(self, flag: str) -> Option | None:
        return self._by_flag.get(flag)

    def by_name(self, name: str) -> Option | None:
        """The option that a spec calls ``name``."""
        return self._by_name.get(name)

    @property
    def flags(self) -> Iterable[str]:
        return self._by_flag.keys()

    def nearest(self, name: str) -> str | None:
        """The known Python name most like ``name``."""
        near = difflib.get_close_matches(name, self._by_name, n=1)
        return near[0] if near else None

    def to_json(self) -> str:
        """One option a line, so that a change of release reads well."""
        rows = ",\n".join(json.dumps(asdict(option), sort_keys=True) for option in self.options)
        head = json.dumps({"program": self.program, "release": self.release})[:-1]
        return f'{head}, "options": [\n{rows}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError for what is no manifest."""
        try:
            content: Mapping[str, Any] = json.loads(text)
            options = tuple(_option(row) for row in content["options"])
            return cls(str(content["program"]), str(content["release"]), options)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no manifest of options: {error!r}") from error


def python_name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def describe(parser: argparse.ArgumentParser, *, program: str, release: str) -> Manifest:
    """Every option of ``parser``, by destination."""
    groups = {id(action): group.title or "" for group in parser._action_groups for action in group._group_actions}
    options = [
        _describe(action, groups.get(id(action), ""))
        for action in parser._actions
        if any(flag.startswith("--") for flag in action.option_strings) and action.dest != argparse.SUPPRESS
    ]
    return Manifest(program, release, tuple(sorted(options, key=lambda option: (option.dest, option.flags))))


def _describe(action: argparse.Action, group: str) -> Option:
    choices = None if action.choices is None else tuple(_plain(choice) for choice in action.choices)
    if choices is not None and isinstance(action.choices, set | frozenset):
        choices = tuple(sorted(choices, key=str))
    default = None if action.default == argparse.SUPPRESS else _plain(action.default)
    flags = tuple(action.option_strings)
    return Option(action.dest, flags, _kind(action), _type(action), action.nargs, choices, default, group)


def _kind(action: argparse.Action) -> Kind:
    if isinstance(action, argparse.BooleanOptionalAction):
        return "toggle"
    if action.nargs == 0:
        const = getattr(action, "const", None)
        # An action of the program's own that takes no value, to be warned of and no more.
        return "on" if const is True or const is None else "off" if const is False else "const"
    return "append" if isinstance(action, argparse._AppendAction) else "value"


def _type(action: argparse.Action) -> ValueType:
    kind = action.type
    if kind is None:
        return "str"
    if kind is json.loads:
        return "json"
    known: dict[Any, ValueType] = {int: "int", float: "float", str: "str", bool: "bool"}
    return known.get(kind, "text")


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _option(row: Mapping[str, Any]) -> Option:
    choices = row["choices"]
    return Option(
        row["dest"],
        tuple(row["flags"]),
        row["kind"],
        row["type"],
        row["nargs"],
        None if choices is None else tuple(choices),
        row["default"],
        row["group"],
    )
