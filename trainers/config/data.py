"""Where prompts come from."""

from collections.abc import Sequence
from typing import Annotated, Any, Self, cast

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from engines.config import Positive, Section


def _kind_of(value: Any) -> str | None:
    if isinstance(value, str):
        return "path"
    if not isinstance(value, list | tuple):
        return None
    several = any(isinstance(each, dict | Section) for each in cast("Sequence[Any]", value))
    return "data_sets" if several else "paths"


_Path = Annotated[str, Tag("path")]
_PathList = Annotated[tuple[str, ...], Tag("paths")]
type Paths = Annotated[
    _Path | _PathList,
    Discriminator(_kind_of, custom_error_type="paths", custom_error_message="must be a path, or a list of paths"),
]
"""A .jsonl, .json or .parquet file or a directory that Hugging Face's ``save_to_disk`` wrote, each with
``@[start:end]`` behind it for a part of its rows; or several, one after the other."""


class DataSetConfig(Section):
    """One data set of a mixture. Keys that are unset are those of ``data``."""

    path: Paths
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share of the prompts, relative to the others'."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """Written into the metadata of its samples, as ``data_set``."""
    input_key: str | None = None
    label_key: str | None = None
    metadata_key: str | None = None
    tool_key: str | None = None

    @field_validator("path")
    @classmethod
    def _has_a_path(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return _some(path)

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path


type Sources = Annotated[
    _Path | _PathList | Annotated[tuple[DataSetConfig, ...], Tag("data_sets")],
    Discriminator(
        _kind_of,
        custom_error_type="sources",
        custom_error_message='must be a path, a list of paths, or a list of data sets, each {"path": …, "weight": …}',
    ),
]


class DataConfig(Section):
    prompt_data: Sources
    """One data set, or several that are mixed in proportion to their weights."""
    input_key: str = "input"
    label_key: str | None = None
    metadata_key: str = "metadata"
    tool_key: str | None = None
    """The key of a row's tools, which the chat template is given."""
    apply_chat_template: bool = False
    apply_chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the chat template, such as ``enable_thinking``."""
    shuffle: bool = False
    seed: Annotated[int, Field(ge=0)] = 42
    max_prompt_len: Positive | None = None
    """Prompts with more tokens are left out, and counted."""

    @field_validator("prompt_data")
    @classmethod
    def _has_a_source(cls, sources: Any) -> Any:
        return _some(sources)

    @model_validator(mode="after")
    def _template_has_its_fields(self) -> Self:
        if not self.apply_chat_template:
            if any(each.tool_key is not None for each in self.data_sets):
                raise ValueError("tool_key only applies when apply_chat_template is true")
            if self.apply_chat_template_kwargs:
                raise ValueError("apply_chat_template_kwargs only applies when apply_chat_template is true")
        return self

    @model_validator(mode="after")
    def _data_sets_are_told_apart(self) -> Self:
        names = [each.name for each in self.data_sets if each.name is not None]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"prompt_data: two data sets are named {twice!r}")
        return self

    @property
    def data_sets(self) -> tuple[DataSetConfig, ...]:
        """Each data set, with its own keys."""
        keys = {key: getattr(self, key) for key in ("input_key", "label_key", "metadata_key", "tool_key")}
        told: list[DataSetConfig] = []
        paths: list[str] = []
        for each in (self.prompt_data,) if isinstance(self.prompt_data, str) else self.prompt_data:
            if isinstance(each, str):
                paths.append(each)
            else:
                unset = {key: value for key, value in keys.items() if getattr(each, key) is None}
                told.append(each.model_copy(update=unset))
        return tuple(told) or (DataSetConfig(path=tuple(paths), **keys),)


def _some[T: str | tuple[Any, ...]](paths: T) -> T:
    if not paths:
        raise ValueError("names no file")
    return paths
