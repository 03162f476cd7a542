"""The train step."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from engines.config import Positive, Seconds, Section
from trainers.config.megatron_options import OWNED_MEGATRON_OPTIONS

DEFAULT_MAX_TOKENS = 8192


class TrainerConfig(Section):
    """The train step. ``megatron`` holds any further option of Megatron's parser, by its Python name."""

    global_batch_size: Positive | None = None
    """Samples per optimizer step; unset, one step takes the whole rollout. What remains of a rollout after its last
    full step is a smaller step."""
    use_dynamic_batch_size: bool = True
    """Micro-batches are packed by tokens; otherwise each holds ``micro_batch_size`` samples."""
    max_tokens_per_gpu: Positive = DEFAULT_MAX_TOKENS
    """Tokens packed into one micro-batch at most, per context-parallel rank; a longer sample travels alone."""
    micro_batch_size: Positive | None = None
    """Samples of a micro-batch where ``use_dynamic_batch_size`` is off; 1 when unset."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 1234
    lr: Annotated[float, Field(gt=0)] = 1e-6
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    lr_decay_style: Literal["constant", "linear", "cosine", "inverse-square-root", "WSD"] = "constant"
    """``WSD`` keeps the learning rate after its warm-up, and lets it fall over the last ``megatron.lr_wsd_decay_iters``
    steps, as ``megatron.lr_wsd_decay_style`` says."""
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    lr_warmup_fraction: Annotated[float, Field(ge=0, lt=1)] | None = None
    """In place of ``lr_warmup_steps``: this part of the steps over which the learning rate decays, all of the run's
    unless ``megatron.lr_decay_iters`` says otherwise."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    clip_grad: Annotated[float, Field(ge=0)] = 1.0
    tensor_model_parallel_size: Positive = 1
    sequence_parallel: bool = False
    """Split activations between layers over the tensor-parallel ranks too."""
    pipeline_model_parallel_size: Positive = 1
    num_virtual_stages_per_pipeline_rank: Positive | None = None
    """Parts of the model on each pipeline rank, which interleave; unset, one."""
    context_parallel_size: Positive = 1
    """Ranks among which each sample's tokens are split, in zig-zag order."""
    expert_model_parallel_size: Positive = 1
    expert_tensor_parallel_size: Positive | None = None
    """Unset: ``tensor_model_parallel_size``."""
    preset: str | None = None
    """A published model, by the name of its preset: the job is refused when ``model.hf_checkpoint`` is another."""
    extra_args_provider: str | None = None
    """``package.module:function``, called with Megatron's argument parser before it parses; what it adds can be set
    under ``megatron``."""
    start_timeout_s: Seconds = 900.0
    step_timeout_s: Seconds = 3600.0
    megatron: dict[str, Any] = Field(default_factory=dict)

    @property
    def model_parallel_size(self) -> int:
        """Ranks that hold one copy of the model and see the same samples."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size

    @property
    def micro_batch_multiple(self) -> int:
        """The micro-batches of a rank in a step come in multiples of this: interleaved stages take turns in groups."""
        return self.pipeline_model_parallel_size if (self.num_virtual_stages_per_pipeline_rank or 1) > 1 else 1

    @property
    def max_tokens_per_micro_batch(self) -> int | None:
        """Of whole samples, over the context-parallel ranks together; None where micro-batches are packed by count.
        What sequence parallelism pads a micro-batch with stays within the cap, too."""
        if not self.use_dynamic_batch_size:
            return None
        whole = self.max_tokens_per_gpu * self.context_parallel_size
        parts = self.context_parallel_size * (self.tensor_model_parallel_size if self.sequence_parallel else 1)
        return whole - whole % math.lcm(self.tokens_padded_to, parts) or whole

    @property
    def tokens_padded_to(self) -> int:
        """A sample's tokens are padded to a multiple of this: context-parallel ranks take two equal parts each."""
        return 2 * self.context_parallel_size if self.context_parallel_size > 1 else 1

    @property
    def samples_per_micro_batch(self) -> int | None:
        """None where micro-batches are packed by tokens."""
        return None if self.use_dynamic_batch_size else self.micro_batch_size or 1

    @field_validator("megatron")
    @classmethod
    def _no_owned_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in options:
            if key in OWNED_MEGATRON_OPTIONS:
                raise ValueError(f"megatron.{key} is set by the system: use {OWNED_MEGATRON_OPTIONS[key]}")
        return options

    @model_validator(mode="after")
    def _fields_apply(self) -> Self:
        if self.use_dynamic_batch_size and self.micro_batch_size is not None:
            raise ValueError("micro_batch_size only applies when use_dynamic_batch_size is false")
        if not self.use_dynamic_batch_size and self.max_tokens_per_gpu != DEFAULT_MAX_TOKENS:
            raise ValueError("max_tokens_per_gpu only applies when use_dynamic_batch_size is true")
        if self.lr_warmup_fraction is not None and self.lr_warmup_steps:
            raise ValueError("give either lr_warmup_steps or lr_warmup_fraction")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr ({self.min_lr:g}) is above lr ({self.lr:g})")
        if self.lr_decay_style == "WSD" and self.megatron.get("lr_wsd_decay_iters") is None:
            raise ValueError(
                "lr_decay_style WSD decays over megatron.lr_wsd_decay_iters steps at the end: set that too"
            )
        if (self.num_virtual_stages_per_pipeline_rank or 1) > 1 and self.pipeline_model_parallel_size == 1:
            raise ValueError("num_virtual_stages_per_pipeline_rank needs pipeline_model_parallel_size above 1")
        return self
