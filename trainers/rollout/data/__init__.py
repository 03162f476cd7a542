"""Prompts, in an order that (seed, epoch, offset) determines."""

from trainers.rollout.data.prompts import PromptData
from trainers.rollout.data.reader import LabelCheck, Prompt, Tokenizer

__all__ = ["LabelCheck", "Prompt", "PromptData", "Tokenizer"]
