"""What a job may say about hardware and generation. Light: the API and the CLI read this module."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

type Seconds = Annotated[float, Field(gt=0)]
type Positive = Annotated[int, Field(ge=1)]
type Processes = Annotated[int, Field(ge=1, le=65536)]
"""Each becomes an entry of what is asked of the cluster: a slip of the finger must not fill the driver's memory."""


class Section(BaseModel):
    """One section of a job spec: read-only, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Accelerator(StrEnum):
    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class ResourcesConfig(Section):
    """How many accelerators train and how many generate; on CPU each counts one process slot."""

    accelerator: Accelerator = Accelerator.AUTO
    actor_num_nodes: Processes = 1
    actor_num_gpus_per_node: Processes = 1
    rollout_num_gpus: Processes = 1
    rollout_num_gpus_per_engine: Processes = 1
    placement_timeout_s: Seconds = 300.0

    @model_validator(mode="after")
    def _whole_engines(self) -> "ResourcesConfig":
        if self.rollout_num_gpus % self.rollout_num_gpus_per_engine:
            raise ValueError(
                f"rollout_num_gpus ({self.rollout_num_gpus}) must be a multiple of "
                f"rollout_num_gpus_per_engine ({self.rollout_num_gpus_per_engine})"
            )
        return self

    @property
    def train_world_size(self) -> int:
        return self.actor_num_nodes * self.actor_num_gpus_per_node

    @property
    def num_engines(self) -> int:
        return self.rollout_num_gpus // self.rollout_num_gpus_per_engine


class SamplingConfig(Section):
    """How the policy is sampled; names as in SGLang's sampling parameters. Those that bend the distribution (penalties,
    grammars) are left out: the trainer could not compute the log-probabilities that they lead to."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: int = -1
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_new_tokens: Positive = 1024
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Until then the policy cannot stop: its log-probabilities are those of a choice without the tokens that end."""
    ignore_eos: bool = False
    """Go on after the model's own end token: every response is ``max_new_tokens`` long or ends at ``stop``."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the response's text; its token ids are never changed."""

    @model_validator(mode="after")
    def _room_for_the_least(self) -> "SamplingConfig":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens ({self.min_new_tokens}) must not be above max_new_tokens ({self.max_new_tokens})"
            )
        return self


_OWN_KEY = "(the service's own key: jobs' engines are reached through it, and speak plain HTTP without a key)"
_OWN_TLS = "(TLS in front of the service: jobs' engines are reached through it, and speak plain HTTP)"

# SGLang options that the system sets itself, and the field that decides each.
OWNED_SGLANG_OPTIONS: dict[str, str] = {
    "model_path": "model.hf_checkpoint",
    "tokenizer_path": "model.hf_checkpoint",
    "host": "(chosen by the engine)",
    "port": "(chosen by the engine)",
    "nccl_port": "(chosen by the engine)",
    "device": "resources.accelerator",
    "tp_size": "resources.rollout_num_gpus_per_engine",
    "tensor_parallel_size": "resources.rollout_num_gpus_per_engine",
    "nnodes": "resources.rollout_num_gpus_per_engine",
    "node_rank": "resources.rollout_num_gpus_per_engine",
    "dist_init_addr": "(chosen by the engine)",
    "base_gpu_id": "(chosen by the placement)",
    "gpu_id_step": "(chosen by the placement)",
    "random_seed": "engine.seed",
    "weight_version": "(set by weight sync)",
    "skip_server_warmup": "(set by the engine)",
    "api_key": _OWN_KEY,
    "admin_api_key": _OWN_KEY,
    "ssl_keyfile": _OWN_TLS,
    "ssl_certfile": _OWN_TLS,
    "ssl_ca_certs": _OWN_TLS,
    "ssl_keyfile_password": _OWN_TLS,
    "enable_ssl_refresh": _OWN_TLS,
    "grpc_mode": "(HTTP: it is how router and trainer speak to an engine)",
    "tokenizer_worker_num": "(one, which refuses prompts that would end the engine)",
}


class EngineConfig(Section):
    """One SGLang server per engine. ``sglang`` holds any ServerArgs option, by its Python name."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    seed: int = 42
    start_timeout_s: Seconds = 600.0
    request_timeout_s: Seconds = 1800.0
    max_concurrency: Positive = 512
    """Requests in flight at most, per engine."""
    keep_serving_s: Annotated[float, Field(ge=0)] = 0.0
    """After the last rollout the engines go on serving the trained policy for this long."""
    sglang: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_owned_options(self) -> "EngineConfig":
        for key in self.sglang:
            if key in OWNED_SGLANG_OPTIONS:
                raise ValueError(f"sglang.{key} is set by the system: use {OWNED_SGLANG_OPTIONS[key]}")
        return self

    @model_validator(mode="after")
    def _one_replica(self) -> "EngineConfig":
        for name in ("dp_size", "data_parallel_size"):
            if self._above_one(name) and not self.sglang.get("enable_dp_attention"):
                raise ValueError(
                    f"sglang.{name} ({self.sglang[name]}) needs sglang.enable_dp_attention: an engine has the "
                    "accelerators of one replica, and further ones are further engines: raise "
                    "resources.rollout_num_gpus"
                )
        return self

    @model_validator(mode="after")
    def _one_stage(self) -> "EngineConfig":
        for name in ("pp_size", "pipeline_parallel_size"):
            if self._above_one(name):
                # SGLang numbers the receivers of an update by tensor-parallel rank, and the stages' would collide.
                raise ValueError(
                    f"sglang.{name} ({self.sglang[name]}): weights reach an engine of one stage only, which spreads "
                    "over resources.rollout_num_gpus_per_engine by tensor parallelism: leave it out"
                )
        return self

    def _above_one(self, name: str) -> bool:
        value = self.sglang.get(name)
        return isinstance(value, int) and value > 1
