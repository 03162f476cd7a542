"""What comes back from a user's function, held against what its door promises."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from engines.types import Sample
from trainers.errors import RolloutFailed


def groups_of(found: Any, name: str) -> list[list[Sample]]:
    """Groups of samples, at least one. Siblings that a function returns as a list within a group become members of
    it."""
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise RolloutFailed(f"{name} returned {_short(found)}: expected a list of groups, each a list of samples")
    groups: list[list[Sample]] = []
    for number, group in enumerate(cast("Sequence[Any]", found)):
        if not isinstance(group, Sequence) or isinstance(group, str):
            raise RolloutFailed(f"{name}: group {number} is {_short(group)}: expected a list of samples")
        members: list[Sample] = []
        for member in cast("Sequence[Any]", group):
            members += member if isinstance(member, list) else [member]
        if stranger := next((each for each in members if not isinstance(each, Sample)), None):
            raise RolloutFailed(f"{name}: group {number} holds {_short(stranger)}: expected samples")
        groups.append(members)
    return groups


def attempts_of(found: Any, sample: Sample, name: str) -> list[Sample]:
    """What a generate function made of ``sample``: one sample or several, which share its trajectory then."""
    made = found if isinstance(found, list) else [found]
    if not made or not all(isinstance(each, Sample) for each in made):
        raise RolloutFailed(
            f"{name} returned {_short(found)} for sample {sample.index}: expected a Sample or a list of them"
        )
    siblings = cast("list[Sample]", made)
    if len(siblings) > 1:
        for each in siblings:
            each.group_index = sample.group_index
            if each.trajectory_index is None:
                each.trajectory_index = sample.index
    return siblings


def numbers_of(found: Any, groups: Sequence[Sequence[Sample]], name: str) -> list[list[float]]:
    """One finite number for each sample of each group."""
    try:
        numbers = [[float(each) for each in group] for group in found]
    except (TypeError, ValueError):
        raise RolloutFailed(f"{name} returned {_short(found)}: expected a list of numbers for each group") from None
    if [len(each) for each in numbers] != [len(each) for each in groups]:
        raise RolloutFailed(
            f"{name} returned {[len(each) for each in numbers]} numbers by group, for groups of "
            f"{[len(each) for each in groups]} samples"
        )
    if not all(math.isfinite(each) for group in numbers for each in group):
        raise RolloutFailed(f"{name} returned a number that is not finite")
    return numbers


def metrics_of(found: Any, given: Mapping[str, float], name: str) -> dict[str, float]:
    """The metrics to report: those that were returned, or with None those that were given."""
    if found is None:
        return dict(given)
    try:
        return {str(key): float(value) for key, value in found.items()}
    except (AttributeError, TypeError, ValueError):
        raise RolloutFailed(f"{name} returned {_short(found)}: expected metrics, names with numbers, or None") from None


def _short(found: Any) -> str:
    text = repr(found)
    return f"{type(found).__name__} {text if len(text) <= 80 else text[:80] + '…'}"
