"""What a job may say about the policy, its data and its training. Light: the API and the CLI read this module."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from engines.config import EngineConfig, Positive, ResourcesConfig, SamplingConfig, Seconds, Section

type Fraction = Annotated[float, Field(ge=0, le=1)]


class ModelConfig(Section):
    hf_checkpoint: str
    """A Hugging Face directory: architecture, tokenizer and, unless a checkpoint is loaded, the first weights."""


class DataConfig(Section):
    prompt_data: str
    """A .jsonl file, one object a line."""
    input_key: str = "input"
    label_key: str | None = None
    metadata_key: str = "metadata"
    apply_chat_template: bool = False
    shuffle: bool = False
    seed: int = 42
    max_prompt_len: Positive | None = None
    """Prompts with more tokens are left out, and counted."""


class RewardConfig(Section):
    """How a sample is scored: a shipped rule by name, or a function ``package.module:function``."""

    type: Literal["exact_match", "regex_match", "last_number", "custom"] = "exact_match"
    function: str | None = None
    timeout_s: Seconds = 60.0
    """For one sample; later is a reward of 0 for a shipped rule's slip, a failed sample for a custom one."""

    @model_validator(mode="after")
    def _function_belongs_to_custom(self) -> Self:
        if (self.type == "custom") != (self.function is not None):
            raise ValueError("reward.function is required for type 'custom' and only allowed there")
        return self


class RolloutConfig(Section):
    num_rollouts: Positive
    rollout_batch_size: Positive
    """Prompts per rollout."""
    n_samples_per_prompt: Positive = 8
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig = RewardConfig()
    timeout_s: Seconds = 1800.0
    """For one rollout, generation and rewards together."""

    @property
    def samples_per_rollout(self) -> int:
        return self.rollout_batch_size * self.n_samples_per_prompt


class GRPOConfig(Section):
    """Group-relative policy optimisation with the clipped loss; no reference model unless asked for."""

    name: Literal["grpo"] = "grpo"
    eps_clip: Annotated[float, Field(ge=0)] = 0.2
    eps_clip_high: Annotated[float, Field(ge=0)] | None = None
    eps_clip_c: Annotated[float, Field(gt=1)] | None = None
    """Dual clip: bounds the loss of a negative advantage at ``eps_clip_c`` times it."""
    normalize_std: bool = True
    entropy_coef: float = 0.0
    loss_aggregation: Literal["sample_mean", "token_mean"] = "sample_mean"
    """``sample_mean``: mean over samples of the mean over mask-1 tokens. ``token_mean``: over all of them."""
    use_rollout_log_probs: bool = False
    """Take the engine's log-probabilities as the old policy's, in place of the trainer's own."""

    @property
    def clip_high(self) -> float:
        return self.eps_clip if self.eps_clip_high is None else self.eps_clip_high


# With one algorithm so far a union of one; the others join it by their ``name``.
type AlgorithmConfig = GRPOConfig


# Megatron options that the system sets itself, and the field that decides each.
OWNED_MEGATRON_OPTIONS: dict[str, str] = {
    "load": "checkpoint.load",
    "save": "checkpoint.save",
    "save_interval": "checkpoint.save_interval",
    "hf_checkpoint": "model.hf_checkpoint",
    "global_batch_size": "trainer.global_batch_size",
    "micro_batch_size": "trainer.max_tokens_per_gpu",
    "lr": "trainer.lr",
    "min_lr": "trainer.min_lr",
    "lr_decay_style": "trainer.lr_decay_style",
    "lr_warmup_iters": "trainer.lr_warmup_steps",
    "weight_decay": "trainer.weight_decay",
    "adam_beta1": "trainer.adam_beta1",
    "adam_beta2": "trainer.adam_beta2",
    "adam_eps": "trainer.adam_eps",
    "clip_grad": "trainer.clip_grad",
    "seed": "trainer.seed",
    "bf16": "trainer.dtype",
    "fp16": "trainer.dtype",
    "distributed_backend": "resources.accelerator",
    "use_cpu_initialization": "resources.accelerator",
    "calculate_per_token_loss": "algorithm.loss_aggregation",
    "train_iters": "rollout.num_rollouts",
    "train_samples": "rollout.num_rollouts",
    "tensor_model_parallel_size": "trainer.tensor_model_parallel_size",
    "num_layers": "model.hf_checkpoint",
    "hidden_size": "model.hf_checkpoint",
    "ffn_hidden_size": "model.hf_checkpoint",
    "num_attention_heads": "model.hf_checkpoint",
    "num_query_groups": "model.hf_checkpoint",
    "kv_channels": "model.hf_checkpoint",
    "vocab_size": "model.hf_checkpoint",
    "rotary_base": "model.hf_checkpoint",
    "norm_epsilon": "model.hf_checkpoint",
    "untie_embeddings_and_output_weights": "model.hf_checkpoint",
}


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


class SyncConfig(Section):
    """How new weights reach the engines."""

    pause_mode: Literal["abort", "retract", "in_place"] = "retract"
    """What happens to requests in flight: ended short, requeued and recomputed, or continued on the old KV cache."""
    bucket_mb: Annotated[float, Field(gt=0)] = 512.0
    timeout_s: Seconds = 600.0


class CheckpointConfig(Section):
    """Megatron checkpoints in ``torch_dist`` format, and exports in Hugging Face's."""

    load: str | None = None
    """A Megatron checkpoint directory to begin from; a job that already saved goes on from its own."""
    save: str | None = None
    """Unset: ``checkpoints`` in the job's run directory."""
    save_interval: Positive | None = None
    """Save after every this many rollouts. The last rollout is always saved."""
    save_hf: str | None = None
    """Where the trained model is exported at the end; unset: ``hf`` in the job's run directory."""


class RuntimeConfig(Section):
    """The processes of the job: where plug-ins come from."""

    env_vars: dict[str, str] = Field(default_factory=dict)
    python_path: tuple[str, ...] = ()


class RunConfig(Section):
    """Everything one run needs to know; a job spec is this plus what only the control plane reads."""

    resources: ResourcesConfig = ResourcesConfig()
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    algorithm: AlgorithmConfig = GRPOConfig()
    trainer: TrainerConfig = TrainerConfig()
    engine: EngineConfig = EngineConfig()
    sync: SyncConfig = SyncConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def global_batch_size(self) -> int:
        return self.trainer.global_batch_size or self.rollout.samples_per_rollout

    @property
    def steps_per_rollout(self) -> int:
        return self.rollout.samples_per_rollout // self.global_batch_size

    @property
    def data_parallel_size(self) -> int:
        return self.resources.train_world_size // self.trainer.tensor_model_parallel_size

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        samples = self.rollout.samples_per_rollout
        if samples % self.global_batch_size:
            raise ValueError(
                f"trainer.global_batch_size ({self.global_batch_size}) must divide "
                f"rollout.rollout_batch_size × rollout.n_samples_per_prompt ({samples})"
            )
        if self.resources.train_world_size % self.trainer.tensor_model_parallel_size:
            raise ValueError(
                f"trainer.tensor_model_parallel_size ({self.trainer.tensor_model_parallel_size}) must divide "
                f"the number of training processes ({self.resources.train_world_size})"
            )
        if self.global_batch_size % self.data_parallel_size:
            raise ValueError(
                f"trainer.global_batch_size ({self.global_batch_size}) must be a multiple of the number of "
                f"data-parallel ranks ({self.data_parallel_size}): every rank takes part in every step"
            )
        return self
