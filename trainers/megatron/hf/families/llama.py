"""Llama 3 and what has its shape, like SmolLM2."""

from trainers.megatron.hf.family import Family

LLAMA = Family("LlamaForCausalLM")
