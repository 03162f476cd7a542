"""Weights between a Hugging Face directory and a Megatron checkpoint, on the CPU, a parameter at a time."""
