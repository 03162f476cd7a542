"""GLM-4.5 and its Air."""

from trainers.megatron.hf.families.routed_by_sigmoid import routed_by_sigmoid
from trainers.megatron.hf.family import Family

GLM4_MOE = Family(
    "Glm4MoeForCausalLM",
    qkv_bias_field="attention_bias",
    qk_layernorm_field="use_qk_norm",
    rotary_percent=0.5,
    experts=routed_by_sigmoid,
)
