"""What comes back from a user's function, held against what its door promises."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from engines.types import Sample
from trainers.errors import RolloutFailed


def groups_of(found: Any, name: str) -> list[list[Sample]]:
    """Groups of samples, at least one. Siblings that a function returns as a list within a group become members of
    it, and share a trajectory."""
    if not _is_list(found) or not found:
        raise _no_groups(found, name)
    groups: list[list[Sample]] = []
    for number, group in enumerate(cast("Sequence[Any]", found)):
        if not _is_list(group):
            raise RolloutFailed(f"{name}: group {number} is {_short(group)}: expected a list of samples")
        members: list[Sample] = []
        for member in cast("Sequence[Any]", group):
            attempt = cast("list[Any]", member) if isinstance(member, list) else [member]
            strangers = [each for each in attempt if not isinstance(each, Sample)]
            if strangers:
                raise RolloutFailed(f"{name}: group {number} holds {_short(strangers[0])}: expected samples")
            share_trajectory(attempt)
            members += attempt
        groups.append(members)
    return groups


def checked_groups(found: Any, name: str) -> list[list[Sample]]:
    """Groups of samples as they are, which may be none. They stay the same lists, by which a buffer knows them."""
    if not _is_list(found):
        raise _no_groups(found, name)
    groups = cast("Sequence[Any]", found)
    for number, group in enumerate(groups):
        if not _is_list(group) or not all(isinstance(each, Sample) for each in cast("Sequence[Any]", group)):
            raise RolloutFailed(f"{name}: group {number} is {_short(group)}: expected a list of samples")
    return list(groups)


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
    share_trajectory(siblings, sample.index)
    return siblings


def share_trajectory(siblings: Sequence[Sample], index: int | None = None) -> None:
    """Several samples of one attempt count as one trajectory, unless they say otherwise. ``index``: of the sample that
    they came of; unset, the first of them kept it."""
    if len(siblings) < 2:
        return
    for each in siblings:
        if each.trajectory_index is None:
            each.trajectory_index = siblings[0].index if index is None else index


def eval_sets_of(found: Any, name: str) -> dict[str, list[list[Sample]]]:
    """The groups of each eval set, by its name."""
    if not isinstance(found, Mapping):
        raise RolloutFailed(f"{name} returned {_short(found)}: expected groups of samples by eval set")
    sets = cast("Mapping[Any, Any]", found)
    return {str(key): groups_of(groups, f"{name}, eval set {key}") for key, groups in sets.items()}


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


def _is_list(found: Any) -> bool:
    return isinstance(found, Sequence) and not isinstance(found, str)


def _no_groups(found: Any, name: str) -> RolloutFailed:
    return RolloutFailed(f"{name} returned {_short(found)}: expected a list of groups, each a list of samples")


def _short(found: Any) -> str:
    text = repr(found)
    return f"{type(found).__name__} {text if len(text) <= 80 else text[:80] + '…'}"
