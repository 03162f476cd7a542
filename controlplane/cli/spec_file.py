"""A job spec from a file, with single fields set on top."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml

from controlplane.cli.console import UserError

_INPUTS = (
    "model.hf_checkpoint",
    "data.prompt_data",
    "eval.sets.prompt_data",
    "checkpoint.ref_load",
    "debug.load_rollouts",
    "runtime.python_path",
    "conversion.hf_checkpoint",
    "conversion.load",
)
_OUTPUTS = ("checkpoint.save", "checkpoint.save_hf", "debug.save_rollouts", "conversion.save")
_LOAD = "checkpoint.load"
# A part of a file's rows, behind its path.
_ROWS = re.compile(r"@\[-?\d*:-?\d*\]$")


def read_spec(path: Path, settings: list[str]) -> dict[str, Any]:
    """The JSON or YAML document in ``path``, with each ``a.b=value`` of ``settings`` applied; a value is JSON if it
    reads as JSON, else a string. Relative paths become absolute: of an input, where it exists beside ``path`` or else
    in the current directory; of an output, in the current directory. Raises UserError, which names file and place."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    try:
        document: Any = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: a job spec is an object with sections, not {type(document).__name__}")
    spec = cast("dict[str, Any]", document)
    spec = _anchored(spec, _paths(spec)[0], lambda text: _existing(path.parent, text))
    for setting in settings:
        _set(spec, setting)
    try:
        json.dumps(spec, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:  # a YAML date, NaN, half a surrogate pair
        raise UserError(f"{path}: holds what JSON cannot say: {error}; quote it if it is meant as text") from None
    inputs, outputs = _paths(spec)
    spec = _anchored(spec, inputs, lambda text: _existing(Path(), text))
    return _anchored(spec, outputs, lambda text: str(Path(text).absolute()))


def _paths(spec: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which fields name inputs, and which outputs."""
    checkpoint: Any = spec.get("checkpoint")
    if isinstance(checkpoint, dict):
        section = cast("dict[str, Any]", checkpoint)
        if section.get("load") == section.get("save"):  # goes on with what it saves, which may not exist yet
            return _INPUTS, (*_OUTPUTS, _LOAD)
    return (*_INPUTS, _LOAD), _OUTPUTS


def _anchored(spec: dict[str, Any], fields: tuple[str, ...], rule: Callable[[str], str]) -> dict[str, Any]:
    for field in fields:
        spec = _replaced(spec, field.split("."), rule)
    return spec


def _replaced(value: Any, place: list[str], rule: Callable[[str], str]) -> Any:
    """``value`` with ``rule`` applied to the relative paths at ``place``; what the API will refuse is left as it is."""
    if isinstance(value, list):
        return [_replaced(each, place, rule) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        section = cast("dict[str, Any]", value)
        key, *rest = place or ["path"]  # of a data set in a mixture
        return section | {key: _replaced(section[key], rest, rule)} if key in section else section
    relative = isinstance(value, str) and value and not place and not Path(value).is_absolute()
    return rule(value) if relative else value


def _existing(directory: Path, text: str) -> str:
    """The absolute path if there is such a file or directory, else ``text``."""
    rows = _ROWS.search(text)
    path = (directory / (text[: rows.start()] if rows else text)).absolute()
    try:
        return f"{path}{rows[0] if rows else ''}" if path.exists() else text
    except OSError:  # too long a name, say
        return text


def _set(spec: dict[str, Any], setting: str) -> None:
    path, sign, value = setting.partition("=")
    if not sign or not path:
        raise UserError(f"--set {setting}: write it as section.field=value")
    *sections, field = path.split(".")
    place = spec
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {setting}: {section} is not a section")
        place = cast("dict[str, Any]", inner)
    try:
        place[field] = json.loads(value)
    except json.JSONDecodeError:
        place[field] = value
