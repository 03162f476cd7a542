"""Prompts, in an order that (seed, epoch, offset) determines."""

from trainers.rollout.data.prompts import LabelCheck, Prompt, PromptData, Tokenizer

__all__ = ["LabelCheck", "Prompt", "PromptData", "Tokenizer"]
