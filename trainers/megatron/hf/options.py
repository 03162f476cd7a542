"""Megatron's options that a Hugging Face config decides."""

from typing import Any

from trainers.megatron.hf.architecture import HFModel, Llama3Rope, YarnRope


def architecture_options(model: HFModel) -> dict[str, Any]:
    """Options of Megatron's parser, by their Python names, that the model's config fixes."""
    options: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "vocab_size": model.vocab_size,
        "layernorm_epsilon": model.norm_epsilon,
        "rotary_base": model.rope_theta,
        "rotary_percent": model.rotary_percent,
        "rotary_interleaved": model.family.rotary_interleaved,
        "untie_embeddings_and_output_weights": not model.tied,
        "normalization": "RMSNorm",
        "position_embedding_type": "rope",
        "swiglu": True,
        "add_bias_linear": False,
        "add_qkv_bias": model.qkv_bias,
    }
    return options | _attention(model) | _experts(model)


def _attention(model: HFModel) -> dict[str, Any]:
    latent = model.latent
    if latent is None:
        return {
            "group_query_attention": True,
            "num_query_groups": model.num_query_groups,
            "kv_channels": model.head_dim,
            "qk_layernorm": model.qk_layernorm,
        } | _stretched(model.rope_scaling)
    options = {
        "multi_latent_attention": True,
        "qk_layernorm": True,
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_head_dim": latent.plain_head_dim,
        "qk_pos_emb_head_dim": latent.rotary_head_dim,
        "v_head_dim": latent.value_head_dim,
        "kv_channels": latent.value_head_dim,
        "rope_type": "rope",
        # Without effect at a factor of 1; this is how published option sets write it.
        "rotary_scaling_factor": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    if isinstance(model.rope_scaling, YarnRope):
        options |= {
            "rope_type": "yarn",
            "rotary_scaling_factor": model.rope_scaling.factor,
            "mscale": model.rope_scaling.mscale,
            "mscale_all_dim": model.rope_scaling.mscale_all_dim,
        }
    return options


def _stretched(scaling: Llama3Rope | YarnRope | None) -> dict[str, Any]:
    if not isinstance(scaling, Llama3Rope):
        return {}
    # The second is read for latent attention alone; published option sets give both.
    return {
        "use_rope_scaling": True,
        "rope_scaling_factor": scaling.factor,
        "rotary_scaling_factor": scaling.factor,
    }


def _experts(model: HFModel) -> dict[str, Any]:
    experts = model.experts
    if experts is None:
        return {}
    options: dict[str, Any] = {
        "num_experts": experts.count,
        "moe_ffn_hidden_size": experts.ffn_hidden_size,
        "moe_layer_freq": _pattern(experts.layers),
        "moe_shared_expert_intermediate_size": experts.shared_ffn_hidden_size,
        "moe_router_topk": experts.per_token,
        "moe_router_score_function": experts.score,
        # Softmax over the chosen experts only is softmax over all, normalised among the chosen. With sigmoid it makes
        # no difference; this is how published option sets write it.
        "moe_router_pre_softmax": experts.score == "sigmoid" or not experts.normalized,
        "moe_router_enable_expert_bias": experts.score == "sigmoid",
    }
    if experts.score == "sigmoid":
        options |= {
            "moe_router_num_groups": experts.groups,
            "moe_router_group_topk": experts.groups_per_token,
            "moe_router_topk_scaling_factor": experts.scale,
        }
    return options


def _pattern(layers: tuple[bool, ...]) -> str:
    """As Megatron reads it: an expression for a list of 0 and 1."""
    parts: list[str] = []
    start = 0
    for layer in range(1, len(layers) + 1):
        if layer == len(layers) or layers[layer] != layers[start]:
            parts.append(f"[{int(layers[start])}]*{layer - start}")
            start = layer
    return "+".join(parts)


def architecture_defaults(model: HFModel) -> dict[str, Any]:
    """Further options that suit the model's training here, and that a job may change."""
    # The other dispatcher cannot take micro-batches of different lengths through a pipeline, experts or not.
    options: dict[str, Any] = {"moe_token_dispatcher_type": "alltoall"}
    if model.experts is None:
        return options
    return options | {
        "moe_router_dtype": "fp32",
        "moe_aux_loss_coeff": 0.0,
        # Rewards shape the policy; balancing the experts is pre-training's concern.
        "moe_router_bias_update_rate": 0.0,
    }


def split_over_tensor_parallel(model: HFModel) -> dict[str, int]:
    """What the tensor-parallel ranks divide evenly, by the config's names."""
    latent, found = model.latent, {"num_attention_heads": model.num_attention_heads}
    if latent is None:
        found["num_key_value_heads"] = model.num_query_groups
    else:
        found["kv_lora_rank + qk_rope_head_dim"] = latent.kv_rank + latent.rotary_head_dim
        if latent.query_rank is not None:
            found["q_lora_rank"] = latent.query_rank
    if model.experts is None or not all(model.experts.layers):
        found["intermediate_size"] = model.ffn_hidden_size
    if model.experts is not None and model.experts.shared_ffn_hidden_size is not None:
        found["n_shared_experts * moe_intermediate_size"] = model.experts.shared_ffn_hidden_size
    return found
