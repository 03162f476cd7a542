"""A job spec from a file, with single fields set on top."""

import json
from pathlib import Path
from typing import Any, cast

import yaml

from controlplane.cli.console import UserError


def read_spec(path: Path, settings: list[str]) -> dict[str, Any]:
    """The JSON or YAML document in ``path``, with each ``a.b=value`` of ``settings`` applied; a value is JSON if it
    reads as JSON, else a string. Raises UserError, which names file and place."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    try:
        document: Any = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: a job spec is an object with sections, not {type(document).__name__}")
    spec = cast("dict[str, Any]", document)
    for setting in settings:
        _set(spec, setting)
    return spec


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
