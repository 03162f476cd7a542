"""From a job's engine section to SGLang's command line. Pure: knows argparse, not SGLang."""

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from engines.config import OWNED_SGLANG_OPTIONS, EngineConfig
from engines.hardware.base import Hardware


class OptionInvalid(ValueError):
    """An option of ``engine.sglang`` that SGLang's parser does not have or cannot take."""


def server_options(
    config: EngineConfig,
    hardware: Hardware,
    *,
    model_path: str,
    host: str,
    port: int,
    tp_size: int,
    index: int,
) -> dict[str, Any]:
    """All options of one server, by Python name. The job's ``engine.sglang`` overrides the hardware's defaults,
    never what the system owns (the config refuses those)."""
    return (
        dict(hardware.sglang_defaults)
        | {"log_level_http": "warning"}
        | config.sglang
        | {
            "model_path": model_path,
            "host": host,
            "port": port,
            "dtype": config.dtype,
            "tp_size": tp_size,
            # SGLang would warm up with an English sentence, which a small tokenizer may turn into no token at all.
            "skip_server_warmup": True,
            # Engines that sampled with one seed would give the same answers to the same prompt.
            "random_seed": config.seed + index,
        }
    )


def to_argv(options: Mapping[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """Spell ``options`` so that ``parser`` reads back the same values.

    A key is an option's name or its destination. None and a flag that is off are left out; a dict, or a list where
    the option takes one value, is JSON. Raises OptionInvalid, which names the key and the nearest known one.
    """
    argv: list[str] = []
    seen: dict[str, str] = {}
    for key, value in options.items():
        action = _find(key, parser)
        if action.dest in seen:
            raise OptionInvalid(f"{seen[action.dest]} and {key} are the same option of SGLang: set one")
        seen[action.dest] = key
        if key not in OWNED_SGLANG_OPTIONS and action.dest in OWNED_SGLANG_OPTIONS:
            raise OptionInvalid(f"sglang.{key} is set by the system: use {OWNED_SGLANG_OPTIONS[action.dest]}")
        if value is not None:
            argv += _spell(key, value, action)
    return argv


def _find(key: str, parser: argparse.ArgumentParser) -> argparse.Action:
    flag = "--" + key.replace("_", "-")
    by_dest: argparse.Action | None = None
    known: set[str] = set()
    for action in parser._actions:  # the parser offers no public list of its options
        if flag in action.option_strings:
            return action
        if action.option_strings and action.dest == key and by_dest is None:
            by_dest = action
        known.update(option.removeprefix("--").replace("-", "_") for option in action.option_strings)
    if by_dest is not None:
        return by_dest
    near = difflib.get_close_matches(key, sorted(known), n=1)
    hint = f": did you mean {near[0]}?" if near else ""
    raise OptionInvalid(f"sglang.{key} is no option of the installed SGLang{hint}")


def _spell(key: str, value: Any, action: argparse.Action) -> list[str]:
    flag = action.option_strings[0]
    takes_value = action.nargs != 0
    if isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise OptionInvalid(f"sglang.{key} takes true or false, not {value!r}")
        negative = [option for option in action.option_strings if option.startswith("--no-")]
        return [flag if value else negative[0]]
    if not takes_value:
        if not isinstance(value, bool):
            raise OptionInvalid(f"sglang.{key} is a flag: use true or false, not {value!r}")
        if value:
            return [flag]
        if action.default is True:
            raise OptionInvalid(f"sglang.{key} is on and SGLang has no way to turn it off")
        return []
    if isinstance(value, bool) and action.nargs == "?":
        return [flag] if value else []
    if isinstance(value, Sequence) and not isinstance(value, str) and action.nargs not in (None, "?"):
        return [flag, *(_text(item) for item in value)]
    return [f"{flag}={_text(value)}"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
