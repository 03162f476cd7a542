"""The fields of a job spec by their dotted paths."""

import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Union

from pydantic import BaseModel

from controlplane.jobs.spec import JobSpec

UNSET = object()


@cache
def exists(path: str) -> bool:
    """Whether a spec can have ``path``; anything goes below a field that is a dictionary."""
    return any(True for _ in _find(path))


@cache
def default_of(path: str) -> Any:
    """What a spec has at ``path`` when it says nothing; UNSET where it must say something."""
    for found in _find(path):
        return found
    raise KeyError(path)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation can hold."""
    if isinstance(annotation, typing.TypeAliasType):
        yield from models(annotation.__value__)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (Annotated, Union, types.UnionType, tuple, list):
        for argument in typing.get_args(annotation):
            yield from models(argument)


def _find(path: str) -> Iterator[Any]:
    holders: list[type[BaseModel]] = [JobSpec]
    *sections, name = path.split(".")
    for section in sections:
        inner = [holder.model_fields[section].annotation for holder in holders if section in holder.model_fields]
        if any(typing.get_origin(annotation) is dict for annotation in inner):
            yield None
            return
        holders = [model for annotation in inner for model in models(annotation)]
    for holder in holders:
        if name in holder.model_fields:
            field = holder.model_fields[name]
            yield UNSET if field.is_required() else field.get_default(call_default_factory=True)
