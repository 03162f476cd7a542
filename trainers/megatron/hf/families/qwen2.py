"""Qwen2 and Qwen2.5."""

from trainers.megatron.hf.family import Family

QWEN2 = Family("Qwen2ForCausalLM", qkv_bias=True)
