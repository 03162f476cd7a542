"""What a judge says of a sample, and what every judge promises."""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from engines.types import Sample


class Unjudgeable(Exception):
    """What a sample is to be judged by is wrong, whatever it responded."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A reward, and what it was made of, if that is more than one value."""

    value: float
    parts: Mapping[str, Any] | None = None


type Judge = Callable[[Sample], Awaitable[Verdict | None]]
"""Judges one finished sample; None says that it could not be judged in time."""


def verdict(answer: Any, reward_key: str | None) -> Verdict:
    """What a function or service answered: a number, or a mapping that holds one under ``reward_key``.

    Raises ValueError(what was answered, what was expected) for anything else.
    """
    shown = f"{answer!r:.200}"
    if not isinstance(answer, Mapping):
        if reward_key is not None:
            raise ValueError(shown, f"an object with the key {reward_key!r} (reward.reward_key)")
        return Verdict(_finite(answer, shown))
    if reward_key is None:
        raise ValueError(shown, "a finite number; reward.reward_key takes one of an object's values")
    if reward_key not in answer:
        raise ValueError(shown, f"the key {reward_key!r} (reward.reward_key)")
    return Verdict(_finite(answer[reward_key], shown), {str(key): value for key, value in answer.items()})


def _finite(value: Any, shown: str) -> float:
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(shown, "a finite number")
    return number
