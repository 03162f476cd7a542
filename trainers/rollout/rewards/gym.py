"""reasoning-gym's own judgement of an answer. :func:`judge` runs in a worker: a data set may do anything with it."""

import functools
import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from trainers.errors import PluginInvalid
from trainers.rollout.rewards.answer import final_answer
from trainers.rollout.rewards.verdict import Unjudgeable

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
MAX_ANSWER = 20_000


def check_installed() -> None:
    """Raise PluginInvalid where reasoning-gym is missing."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise PluginInvalid("reward type reasoning_gym: the package is not installed: install reasoning-gym")


def answer_of(response: str) -> str:
    """What the last ``<answer>`` tag after ``</think>`` holds; without a tag, all that follows ``</think>``."""
    text = final_answer(response)
    tags = _TAG.findall(text)
    return (tags[-1] if tags else text).strip()


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


def judge(*, task: str, answer: str, entry: dict[str, Any]) -> float:
    """``score_answer`` of the data set, kept in [0, 1]."""
    if not answer or len(answer) > MAX_ANSWER:
        return 0.0
    dataset = _dataset(task)
    if not isinstance(entry.get("metadata"), dict) or "answer" not in entry:
        raise Unjudgeable(
            f"an entry of {task} has an answer and metadata, and this has {', '.join(entry) or 'nothing'}"
        )
    return min(max(float(dataset.score_answer(answer, entry)), 0.0), 1.0)


@functools.lru_cache(maxsize=64)
def _dataset(task: str) -> Any:
    import reasoning_gym  # imports a hundred data sets

    try:
        return reasoning_gym.create_dataset(task, size=1, seed=0)
    except ValueError as error:
        raise Unjudgeable(f"reasoning-gym has no task {task!r}: {error}") from None
