"""GLM-4 of April 2025 (0414), dense."""

from trainers.megatron.hf.family import Family

GLM4 = Family(
    "Glm4ForCausalLM",
    qkv_bias=True,
    qkv_bias_field="attention_bias",
    rotary_percent=0.5,
    rotary_interleaved=True,
    sandwich_norms=True,
    fused_gate_up=True,
)
