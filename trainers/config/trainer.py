"""The train step."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from engines.config import Positive, Seconds, Section
from trainers.config.megatron_options import OWNED_MEGATRON_OPTIONS


class TrainerConfig(Section):
    """The train step. ``megatron`` holds any further option of Megatron's parser, by its Python name."""

    global_batch_size: Positive | None = None
    """Samples per optimizer step; unset, one step takes the whole rollout."""
    max_tokens_per_gpu: Positive = 8192
    """Tokens packed into one micro-batch at most; a longer sample travels alone."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 1234
    lr: Annotated[float, Field(gt=0)] = 1e-6
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    lr_decay_style: Literal["constant", "linear", "cosine"] = "constant"
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    clip_grad: Annotated[float, Field(ge=0)] = 1.0
    tensor_model_parallel_size: Positive = 1
    start_timeout_s: Seconds = 900.0
    step_timeout_s: Seconds = 3600.0
    megatron: dict[str, Any] = Field(default_factory=dict)

    @field_validator("megatron")
    @classmethod
    def _no_owned_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in options:
            if key in OWNED_MEGATRON_OPTIONS:
                raise ValueError(f"megatron.{key} is set by the system: use {OWNED_MEGATRON_OPTIONS[key]}")
        return options
