"""What a user submits: a run or a conversion, and what only the control plane reads of it."""

import difflib
import math
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, Union, cast

from pydantic import BaseModel, Field, Tag, model_validator

from controlplane.errors import FieldError
from engines.config import Section
from trainers.config import ConversionConfig, RunConfig

MAX_DEPTH = 64
"""Levels of a spec: the libraries that write JSON stop at some 250, each at another."""

type Label = Annotated[str, Field(min_length=1, max_length=256)]


class Submitted(Section):
    """Beside what the driver reads."""

    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    labels: dict[Label, Annotated[str, Field(max_length=256)]] = Field(default_factory=dict)
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often the run may begin. A lost driver, engine or trainer costs one; the next goes on from the job's
    own checkpoints."""

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        if found := next(_unstorable(self.model_dump(), ()), None):
            raise ValueError(
                f"{found} holds what cannot be stored: NUL, half a surrogate pair, NaN, infinity, an integer beyond "
                f"64 bits or more than {MAX_DEPTH} levels"
            )
        return self

    def for_driver(self) -> dict[str, Any]:
        """The part that the driver reads, as JSON."""
        return self.model_dump(mode="json", exclude=set(Submitted.model_fields))


class JobSpec(Submitted, RunConfig):
    """A run: it generates, trains, or both."""

    driver_cpus: ClassVar[int] = 0
    """The driver only waits for others."""

    @property
    def planned_rollouts(self) -> int:
        """0 while only the run itself can count them."""
        return self.rollout.num_rollouts or 0


class ConversionSpec(Submitted, ConversionConfig):
    """Weights from Hugging Face's format to Megatron's, or back."""

    driver_cpus: ClassVar[int] = 1
    planned_rollouts: ClassVar[int] = 0


type AnySpec = JobSpec | ConversionSpec


def stored_spec(spec: dict[str, Any]) -> AnySpec:
    """As it was submitted, of whichever kind."""
    return (ConversionSpec if "conversion" in spec else JobSpec).model_validate(spec)


def _unstorable(value: Any, at: tuple[int | str, ...]) -> Iterator[str]:
    if len(at) > MAX_DEPTH:
        bad = True
    elif isinstance(value, float):
        bad = not math.isfinite(value)
    elif isinstance(value, int):
        bad = not -(2**63) <= value < 2**63
    elif isinstance(value, str):
        bad = "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value)
    else:
        bad = False
        inner: Iterator[tuple[Any, Any]] = iter(())
        if isinstance(value, dict):
            inner = iter(cast("dict[Any, Any]", value).items())
            yield from (f"a key of {dotted(at)}" for key in cast("dict[Any, Any]", value) if any(_unstorable(key, at)))
        elif isinstance(value, list | tuple):
            inner = enumerate(cast("list[Any]", value))
        for key, element in inner:
            yield from _unstorable(element, (*at, key))
    if bad:
        yield dotted(at) or "the spec"


def field_errors(errors: Sequence[Any], model: type[BaseModel] = JobSpec) -> tuple[FieldError, ...]:
    """Pydantic's list of errors as paths into ``model``; an unknown field comes with the nearest known one."""
    return tuple(_field_error(error, model) for error in errors)


def _field_error(error: Any, model: type[BaseModel]) -> FieldError:
    tagged: tuple[int | str, ...] = tuple(error["loc"])
    location, section = _section(tagged[:-1], model)
    location = (*location, *tagged[-1:]) if not _is_tag(tagged, model) else location
    path = dotted(location)
    if error["type"] == "extra_forbidden":
        suggestion = _nearest(location, section, model)
        hint = f"did you mean {suggestion}?" if suggestion else f"known here: {', '.join(section)}"
        return FieldError(path, f"there is no field {path}; {hint}", suggestion)
    if error["type"] == "missing":
        return FieldError(path, f"{path} is required")
    if error["type"] in ("union_tag_not_found", "union_tag_invalid"):
        tag = f"{path}.{error['ctx']['discriminator'].strip("'")}"
        if error["type"] == "union_tag_not_found":
            return FieldError(tag, f"{tag} is required")
        return FieldError(tag, f"{tag} must be one of {error['ctx']['expected_tags']}, not {error['ctx']['tag']!r:.80}")
    message = str(error["msg"]).removeprefix("Value error, ").replace("a valid tuple", "a list")
    if error["type"] != "value_error" and not isinstance(error["input"], dict | list):
        message = f"{message}, not {error['input']!r:.80}"
    return FieldError(path, message)


def dotted(location: Sequence[int | str]) -> str:
    """``("data", "files", 0)`` as ``data.files[0]``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _nearest(location: Sequence[int | str], siblings: Sequence[str], model: type[BaseModel]) -> str | None:
    name = str(location[-1])
    everywhere = dict(_paths(model))
    everywhere.pop(dotted(location), None)  # a field of another member of a union
    if close := difflib.get_close_matches(name, siblings, n=1, cutoff=0.75):
        return dotted((*location[:-1], close[0]))
    # The right name in the wrong section is the likelier slip than a wrong name in the right one.
    if exact := [path for path, leaf in everywhere.items() if leaf == name]:
        return min(exact, key=lambda path: path.count("."))
    if close := difflib.get_close_matches(name, siblings, n=1, cutoff=0.5):
        return dotted((*location[:-1], close[0]))
    if close := difflib.get_close_matches(name, list(everywhere.values()), n=1, cutoff=0.75):
        return next(path for path, leaf in everywhere.items() if leaf == close[0])
    return None


def _section(location: Sequence[int | str], model: type[BaseModel]) -> tuple[tuple[int | str, ...], list[str]]:
    """``location`` without the tags that Pydantic puts where a union was, and the fields that the section has."""
    path: list[int | str] = []
    sections: list[type[BaseModel]] = [model]
    tags: set[str] = set()
    for part in location:
        if isinstance(part, int):
            path.append(part)
            continue  # an element is what its list holds
        if len(sections) > 1 and (members := [section for section in sections if part in _tags(section)]):
            sections = members
            continue
        if part in tags:
            tags = set()
            continue
        path.append(part)
        fields = [field for section in sections if (field := section.model_fields.get(str(part)))]
        sections = [inner for field in fields for inner in _models(field.annotation)]
        tags = {tag for field in fields for tag in _union_tags(field.annotation)}
    return tuple(path), list(dict.fromkeys(name for section in sections[:1] for name in section.model_fields))


def _is_tag(location: Sequence[int | str], model: type[BaseModel]) -> bool:
    return bool(location) and len(_section(location, model)[0]) == len(_section(location[:-1], model)[0])


def _tags(section: type[BaseModel]) -> set[Any]:
    """The words that tell a member of a union from the others."""
    literals = (field.annotation for field in section.model_fields.values())
    return {word for kind in literals if typing.get_origin(kind) is Literal for word in typing.get_args(kind)}


def _union_tags(annotation: Any) -> Iterator[str]:
    """The tags that the annotation itself gives to the members of a union that are no models."""
    if isinstance(annotation, typing.TypeAliasType):
        yield from _union_tags(annotation.__value__)
    elif typing.get_origin(annotation) in (Annotated, Union, types.UnionType):
        yield from (each.tag for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Tag))
        for argument in typing.get_args(annotation):
            yield from _union_tags(argument)


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every field below ``model``: its path and its own name."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", name
        for inner in _models(field.annotation):
            yield from _paths(inner, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation can hold: itself, or those behind an alias, an Annotated, a union
    or a list."""
    if isinstance(annotation, typing.TypeAliasType):
        yield from _models(annotation.__value__)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (Annotated, Union, types.UnionType, tuple, list):
        for argument in typing.get_args(annotation):
            yield from _models(argument)
