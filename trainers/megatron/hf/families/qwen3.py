"""Qwen3, dense."""

from trainers.megatron.hf.family import Family

QWEN3 = Family("Qwen3ForCausalLM", qk_layernorm=True)
