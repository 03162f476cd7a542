"""What a Hugging Face directory says about its model, in the terms that training needs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.errors import ModelInvalid


@dataclass(frozen=True, slots=True)
class Family:
    """How one architecture differs from the plain Llama block."""

    qkv_bias: bool = False
    qk_layernorm: bool = False


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(qkv_bias=True),
    "Qwen3ForCausalLM": Family(qk_layernorm=True),
}


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """Llama 3.1's stretched rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class HFModel:
    """A dense decoder: RMSNorm, rotary positions, SwiGLU, grouped queries."""

    directory: Path
    family: Family
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    norm_epsilon: float
    rope_theta: int
    rope_scaling: Llama3Rope | None
    tied: bool
    """Input embedding and output layer share one weight."""
    dtype: str
    """Of the stored weights: torch's name without the prefix."""


def read_hf_config(directory: Path) -> HFModel:
    """Read ``config.json``. Raises ModelInvalid for what is missing, malformed or not supported, by its name."""
    path = directory / "config.json"
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        raise ModelInvalid(f"model.hf_checkpoint: {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelInvalid(f"model.hf_checkpoint: {path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ModelInvalid(f"model.hf_checkpoint: {path} holds no JSON object")
    config = _Config(path, raw)
    names = config.raw.get("architectures") or ["(none)"]
    if names[0] not in FAMILIES:
        raise ModelInvalid(f"{path}: architecture {names[0]} is not known; known are {', '.join(FAMILIES)}")
    _refuse_unsupported(config)
    heads = config.integer("num_attention_heads")
    hidden = config.integer("hidden_size")
    rope = config.raw.get("rope_parameters") or config.raw.get("rope_scaling") or {}
    rope_theta = rope.get("rope_theta") or config.number("rope_theta", 10000.0)
    if rope_theta != int(rope_theta):
        raise ModelInvalid(f"{path}: rope_theta = {rope_theta!r} is not supported: Megatron takes whole numbers")
    return HFModel(
        directory=directory,
        family=FAMILIES[names[0]],
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=config.integer("intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=config.integer("num_key_value_heads", heads),
        head_dim=config.integer("head_dim", hidden // heads),
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings"),
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
        rope_theta=int(rope_theta),
        rope_scaling=_rope_scaling(path, rope),
        tied=bool(config.raw.get("tie_word_embeddings", False)),
        dtype=str(config.raw.get("dtype") or config.raw.get("torch_dtype") or "float32").removeprefix("torch."),
    )


@dataclass(frozen=True, slots=True)
class _Config:
    path: Path
    raw: dict[str, Any]

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or value < 1:
            raise ModelInvalid(f"{self.path}: {key} must be a positive integer, not {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.raw.get(key, default)
        if not isinstance(value, int | float):
            raise ModelInvalid(f"{self.path}: {key} must be a number, not {value!r}")
        return float(value)


def _refuse_unsupported(config: _Config) -> None:
    raw = config.raw
    refused = {
        "attention_bias": raw.get("attention_bias", False),
        "mlp_bias": raw.get("mlp_bias", False),
        "use_sliding_window": raw.get("use_sliding_window", False),
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "quantization_config": raw.get("quantization_config") is not None,
        "layer_types": any(kind != "full_attention" for kind in raw.get("layer_types") or ()),
    }
    for key, is_refused in refused.items():
        if is_refused:
            raise ModelInvalid(f"{config.path}: {key} = {raw[key]!r} is not supported by the trainer")


def _rope_scaling(path: Path, rope: dict[str, Any]) -> Llama3Rope | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise ModelInvalid(f"{path}: rotary scaling of type {kind!r} is not supported; 'default' and 'llama3' are")
    try:
        return Llama3Rope(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise ModelInvalid(f"{path}: rotary scaling 'llama3' without {error}") from error
