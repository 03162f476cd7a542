"""What reasoning-gym is asked to judge."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from trainers.errors import PluginInvalid
from trainers.rollout.rewards.answer import final_answer

_BEGIN, _END = "<answer>", "</answer>"


def check_installed() -> None:
    """Raise PluginInvalid where reasoning-gym is missing."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise PluginInvalid("reward type reasoning_gym: the package is not installed: install reasoning-gym")


def answer_of(response: str) -> str:
    """What the last closed ``<answer>`` tag after ``</think>`` holds; without one, all that follows ``</think>``."""
    text = final_answer(response)
    begin = text.rfind(_BEGIN, 0, max(text.rfind(_END), 0))
    if begin < 0:
        return text.strip()
    begin += len(_BEGIN)
    return text[begin : text.find(_END, begin)].strip()


def entry_of(metadata: Mapping[str, Any], *, prompt: str, label: Any) -> dict[str, Any]:
    """The data set's entry: ``metadata["entry"]`` as reasoning-gym made it, or one made of the sample, whose metadata
    is then the entry's own."""
    entry = metadata.get("entry")
    if isinstance(entry, Mapping):
        return dict(entry)
    return {"question": prompt, "answer": label, "metadata": dict(metadata)}


def task_of(entry: Mapping[str, Any]) -> str | None:
    found: Any = entry.get("metadata")
    return found.get("source_dataset") if isinstance(found, Mapping) else None
