"""What a Hugging Face directory says about its model, in the terms that training needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainers.errors import ModelInvalid
from trainers.megatron.hf.architecture import Experts, HFModel, LatentAttention, Llama3Rope, YarnRope
from trainers.megatron.hf.config_file import ConfigFile
from trainers.megatron.hf.families import FAMILIES
from trainers.megatron.hf.family import Family

__all__ = ["Experts", "Family", "HFModel", "LatentAttention", "Llama3Rope", "YarnRope", "read_hf_config"]


def read_hf_config(directory: Path) -> HFModel:
    """Read ``config.json``. Raises ModelInvalid for what is missing, malformed or not supported, by its name."""
    return read_model(ConfigFile.read(directory), directory)


def read_model(config: ConfigFile, directory: Path) -> HFModel:
    """The model whose config is ``config`` and whose weights, if any, are in ``directory``."""
    names = config.raw.get("architectures") or ["(none)"]
    if names[0] not in FAMILIES:
        raise ModelInvalid(f"{config.path}: architecture {names[0]} is not known; known are {', '.join(FAMILIES)}")
    family = FAMILIES[names[0]]
    _refuse_unsupported(config, family)
    heads = config.integer("num_attention_heads")
    hidden = config.integer("hidden_size")
    num_layers = config.integer("num_hidden_layers")
    latent = family.latent(config) if family.latent else None
    theta = config.rope.get("rope_theta") or config.number("rope_theta", 10000.0)
    if theta != int(theta):
        raise ModelInvalid(f"{config.path}: rope_theta = {theta!r} is not supported: Megatron takes whole numbers")
    percent = config.rope.get("partial_rotary_factor") or config.number("partial_rotary_factor", family.rotary_percent)
    return HFModel(
        directory=directory,
        family=family,
        num_layers=num_layers,
        hidden_size=hidden,
        ffn_hidden_size=config.integer("intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=heads if latent else config.integer("num_key_value_heads", heads),
        head_dim=latent.query_head_dim if latent else config.integer("head_dim", hidden // heads),
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings"),
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
        rope_theta=int(theta),
        rope_scaling=_rope_scaling(config, latent is not None),
        rotary_percent=float(percent),
        qkv_bias=family.has_qkv_bias(config),
        qk_layernorm=family.has_qk_layernorm(config),
        latent=latent,
        experts=family.experts(config, num_layers) if family.experts else None,
        tied=config.flag("tie_word_embeddings", False),
        dtype=str(config.raw.get("dtype") or config.raw.get("torch_dtype") or "float32").removeprefix("torch."),
    )


def _refuse_unsupported(config: ConfigFile, family: Family) -> None:
    raw = config.raw
    refused = {
        "attention_bias": family.qkv_bias_field is None and raw.get("attention_bias", False),
        "mlp_bias": raw.get("mlp_bias", False),
        "use_sliding_window": raw.get("use_sliding_window", False),
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "layer_types": any(kind != "full_attention" for kind in raw.get("layer_types") or ()),
    }
    for key, is_refused in refused.items():
        if is_refused:
            raise config.refuse(key)
    if raw.get("quantization_config") is not None:
        raise config.refuse("quantization_config", ": give it a copy in bfloat16")


def _rope_scaling(config: ConfigFile, latent: bool) -> Llama3Rope | YarnRope | None:
    rope = config.rope
    kind = rope.get("rope_type") or rope.get("type") or "default"
    match kind:
        case "default":
            return None
        case "llama3" if not latent:
            keys = ("factor", "low_freq_factor", "high_freq_factor")
            original = _original_length(config, kind)
            return Llama3Rope(*_numbers(config, kind, keys), original_max_position_embeddings=original)
        case "yarn" if latent:
            given = {
                key: float(rope[key])
                for key in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")
                if rope.get(key) is not None
            }
            [factor] = _numbers(config, kind, ("factor",))
            return YarnRope(factor, _original_length(config, kind), **given)
        case _:
            known = "'yarn'" if latent else "'llama3'"
            raise ModelInvalid(
                f"{config.path}: rotary scaling of type {kind!r} is not supported; 'default' and {known} are"
            )


def _original_length(config: ConfigFile, kind: str) -> int:
    return int(_numbers(config, kind, ("original_max_position_embeddings",))[0])


def _numbers(config: ConfigFile, kind: str, keys: Sequence[str]) -> list[float]:
    values: list[Any] = [config.rope.get(key) for key in keys]
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, int | float):
            raise ModelInvalid(f"{config.path}: rotary scaling {kind!r} needs a number as {key}, not {value!r}")
    return [float(value) for value in values]
