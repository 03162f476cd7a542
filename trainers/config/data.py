"""Where prompts come from."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from engines.config import Positive, Section


class DataSetConfig(Section):
    """One data set of a mixture."""

    path: str
    weight: Annotated[float, Field(gt=0)]
    """Its share of the prompts, relative to the others'."""


class DataConfig(Section):
    prompt_data: (
        str
        | Annotated[tuple[str, ...], Field(min_length=1)]
        | Annotated[tuple[DataSetConfig, ...], Field(min_length=1)]
    )
    """A .jsonl, .json or .parquet file or a directory that Hugging Face's ``save_to_disk`` wrote, each with
    ``@[start:end]`` behind it for a part of its rows; several as one data set; or several with weights, which are
    mixed in that proportion."""
    input_key: str = "input"
    label_key: str | None = None
    metadata_key: str = "metadata"
    tool_key: str | None = None
    """The key of a row's tools, which the chat template is given."""
    apply_chat_template: bool = False
    apply_chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the chat template, such as ``enable_thinking``."""
    shuffle: bool = False
    seed: int = 42
    max_prompt_len: Positive | None = None
    """Prompts with more tokens are left out, and counted."""

    @model_validator(mode="after")
    def _template_has_its_fields(self) -> Self:
        if not self.apply_chat_template:
            if self.tool_key is not None:
                raise ValueError("tool_key only applies when apply_chat_template is true")
            if self.apply_chat_template_kwargs:
                raise ValueError("apply_chat_template_kwargs only applies when apply_chat_template is true")
        return self

    @property
    def data_sets(self) -> tuple[tuple[tuple[str, ...], float], ...]:
        """Each data set's paths, and its weight."""
        if isinstance(self.prompt_data, str):
            return (((self.prompt_data,), 1.0),)
        plain = tuple(each for each in self.prompt_data if isinstance(each, str))
        if plain:
            return ((plain, 1.0),)
        return tuple(((each.path,), each.weight) for each in self.prompt_data if isinstance(each, DataSetConfig))
