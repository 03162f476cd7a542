"""A tiny random model of every family that is trained, as transformers writes it."""

from pathlib import Path
from typing import Any

import torch
import transformers

COMMON: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "dtype": "float32",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
    "original_max_position_embeddings": 16,
}
LATENT = {"kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "head_dim": 8}
SIGMOID_EXPERTS = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2.5": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3-moe": (
        "Qwen3Moe",
        {
            "head_dim": 16,
            "moe_intermediate_size": 24,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    "qwen3-moe-plain": (
        "Qwen3Moe",
        {"head_dim": 16, "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2},
    ),
    "llama3": ("Llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "smollm2": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}),
    "glm4": ("Glm4", {"head_dim": 16, "rms_norm_eps": 1e-5}),
    "glm4.5": (
        "Glm4Moe",
        {"head_dim": 16, "attention_bias": True, "use_qk_norm": True}
        | SIGMOID_EXPERTS
        | {"n_group": 1, "topk_group": 1},
    ),
    "glm4.5-air": (
        "Glm4Moe",
        {"head_dim": 16, "attention_bias": True} | SIGMOID_EXPERTS | {"n_group": 1, "topk_group": 1},
    ),
    "deepseek-v3": (
        "DeepseekV3",
        {"num_key_value_heads": 4, "q_lora_rank": 20, "rope_parameters": YARN} | LATENT | SIGMOID_EXPERTS,
    ),
    "moonlight": (
        "DeepseekV3",
        {"num_key_value_heads": 4, "q_lora_rank": None, "rms_norm_eps": 1e-5}
        | LATENT
        | SIGMOID_EXPERTS
        | {"n_group": 1, "topk_group": 1, "n_shared_experts": 2},
    ),
}


def build_family_model(name: str, directory: Path, *, dtype: torch.dtype = torch.float32) -> Any:
    """Write it; norms, biases and the experts' choice are random too. Returns the model."""
    family, shape = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**(COMMON | shape))
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter_name, tensor in model.state_dict().items():
            if parameter_name.endswith(("norm.weight", ".bias", "_bias")) or "layernorm" in parameter_name:
                tensor.add_(torch.randn_like(tensor) * 0.2)
    model.to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(directory)
    return model
