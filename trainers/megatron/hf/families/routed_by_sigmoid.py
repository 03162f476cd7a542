"""The experts of DeepSeek-V3, which others took over: a few dense layers first, sigmoid scores, a bias for the choice,
groups of experts, and shared ones."""

from trainers.megatron.hf.architecture import Experts
from trainers.megatron.hf.config_file import ConfigFile


def routed_by_sigmoid(config: ConfigFile, num_layers: int) -> Experts:
    first_dense = config.count("first_k_dense_replace", 0)
    per_token, width = config.integer("num_experts_per_tok"), config.integer("moe_intermediate_size")
    groups, groups_per_token = config.integer("n_group", 1), config.integer("topk_group", 1)
    shared = config.count("n_shared_experts", 0)
    for key, expected in {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}.items():
        if config.raw.get(key, expected) != expected:
            raise config.refuse(key)
    if not config.flag("norm_topk_prob", True):
        raise config.refuse("norm_topk_prob")
    # A group's score is the sum of its two best experts'; Megatron takes as many as are chosen from each group.
    if groups > 1 and per_token != 2 * groups_per_token:
        raise config.refuse("topk_group", f" with num_experts_per_tok = {per_token}: it must be half of that")
    return Experts(
        count=config.integer("num_local_experts" if "num_local_experts" in config.raw else "n_routed_experts"),
        per_token=per_token,
        ffn_hidden_size=width,
        layers=tuple(layer >= first_dense for layer in range(num_layers)),
        shared_ffn_hidden_size=shared * width if shared else None,
        score="sigmoid",
        groups=groups,
        groups_per_token=groups_per_token,
        scale=config.number("routed_scaling_factor", 1.0),
    )
