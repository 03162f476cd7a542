"""Options of Megatron's own parser, by their Python names."""

import argparse
import contextlib
import difflib
import functools
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trainers.errors import ConfigInvalid

type ArgsProvider = Callable[[argparse.ArgumentParser], argparse.ArgumentParser]
"""A user's own options, added to Megatron's parser."""


@functools.cache
def _parser(provider: ArgsProvider | None) -> argparse.ArgumentParser:
    from megatron.training.arguments import add_megatron_arguments

    parser = add_megatron_arguments(argparse.ArgumentParser(add_help=False))
    return parser if provider is None else provider(parser)


@functools.cache
def _actions(provider: ArgsProvider | None) -> dict[str, argparse.Action]:
    """Every option, by destination and by the Python form of each of its flags."""
    parser = _parser(provider)
    actions: dict[str, argparse.Action] = {}
    for action in parser._actions:
        for flag in action.option_strings:
            if flag.startswith("--"):
                actions.setdefault(_python_name(flag), action)
    for action in reversed(parser._actions):  # the first of several that share a destination wins
        actions[action.dest] = action
    return actions


@functools.cache
def group_of(target: str) -> str:
    """The title under which Megatron's parser has the option that sets ``target``; empty for a user's own."""
    for group in _parser(None)._action_groups:
        if any(action.dest == target for action in group._group_actions):
            return group.title or ""
    return ""


def read(name: str, value: Any) -> Any:
    """``value`` as Megatron's parser would understand it, where it comes as text."""
    action = _actions(None)[name]
    return action.type(value) if isinstance(value, str) and callable(action.type) else value


def default(name: str) -> Any:
    return _actions(None)[name].default


def _python_name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def destination(name: str, provider: ArgsProvider | None = None) -> str:
    """The attribute that option ``name`` sets. Raises ConfigInvalid, with the nearest known name."""
    actions = _actions(provider)
    action = actions.get(name)
    if action is None:
        near = difflib.get_close_matches(name, actions, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigInvalid(f"trainer.megatron.{name}: Megatron has no such option{hint}")
    return action.dest


def to_argv(options: Mapping[str, Any], provider: ArgsProvider | None = None) -> list[str]:
    """The command line that sets ``options``, by destination. Raises ConfigInvalid for an unknown name or a value
    that the option cannot take; types and choices are left to the parser."""
    argv: list[str] = []
    for name, value in options.items():
        destination(name, provider)
        argv += _flags(name, value, _actions(provider)[name])
    return argv


def _flags(name: str, value: Any, action: argparse.Action) -> list[str]:
    if value is None:
        return []
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise ConfigInvalid(f"trainer.megatron.{name}: must be true or false, not {value!r}")
        if isinstance(action, argparse.BooleanOptionalAction):
            return [flag for flag in action.option_strings if flag.startswith("--no-") is not value][:1]
        return [action.option_strings[0]] if value == getattr(action, "const", True) else []
    if isinstance(value, bool):
        raise ConfigInvalid(f"trainer.megatron.{name}: takes a value, not {str(value).lower()}")
    flag = action.option_strings[0]
    if action.nargs in (None, "?"):
        return [f"{flag}={value}"]
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [flag, *map(str, values)]


def parse(argv: Sequence[str], provider: ArgsProvider | None = None) -> argparse.Namespace:
    """Megatron's ``parse_args`` on ``argv``. Raises ConfigInvalid with the parser's words."""
    from megatron.training.arguments import parse_args

    said = io.StringIO()
    try:
        with _command_line(argv), contextlib.redirect_stderr(said):
            return parse_args(extra_args_provider=provider)
    except SystemExit as error:
        raise ConfigInvalid(f"trainer.megatron: {said.getvalue().strip().rpartition('error: ')[2]}") from error


@contextlib.contextmanager
def _command_line(argv: Sequence[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, ["megatron", *argv]
    try:
        yield
    finally:
        sys.argv = before
