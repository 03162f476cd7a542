"""Qwen3 with experts."""

from trainers.megatron.hf.architecture import Experts
from trainers.megatron.hf.config_file import ConfigFile
from trainers.megatron.hf.family import Family


def _experts(config: ConfigFile, num_layers: int) -> Experts:
    every, dense = config.integer("decoder_sparse_step", 1), set(config.raw.get("mlp_only_layers") or ())
    return Experts(
        count=config.integer("num_local_experts" if "num_local_experts" in config.raw else "num_experts"),
        per_token=config.integer("num_experts_per_tok"),
        ffn_hidden_size=config.integer("moe_intermediate_size"),
        layers=tuple(layer not in dense and (layer + 1) % every == 0 for layer in range(num_layers)),
        normalized=config.flag("norm_topk_prob", False),
    )


QWEN3_MOE = Family("Qwen3MoeForCausalLM", qk_layernorm=True, experts=_experts)
