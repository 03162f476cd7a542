"""reasoning-gym's own judgement of an answer. Imported by a worker alone: importing takes seconds, and a data set may
do anything with what it is given."""

import functools
from typing import Any

import reasoning_gym

from trainers.rollout.rewards.verdict import Unjudgeable

MAX_ANSWER = 20_000
"""Characters."""


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
    try:
        return reasoning_gym.create_dataset(task, size=1, seed=0)
    except ValueError as error:
        raise Unjudgeable(f"reasoning-gym has no task {task!r}: {error}") from None
