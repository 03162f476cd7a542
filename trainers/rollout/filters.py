"""Which finished groups are worth training on: the shipped filters of dynamic sampling."""

from collections.abc import Callable

from engines.types import Sample
from trainers.batch import is_trainable
from trainers.rollout.estimates import ROUNDING

type GroupFilter = Callable[[list[Sample]], bool]


def reward_nonzero_std(group: list[Sample]) -> bool:
    """Whether its rewards differ: equal ones have no advantage under a group-relative algorithm (DAPO,
    arXiv:2503.14476, §3.2)."""
    rewards = [sample.reward for sample in group if is_trainable(sample) and sample.reward is not None]
    return bool(rewards) and max(rewards) - min(rewards) > ROUNDING


def any_reward(group: list[Sample]) -> bool:
    """Whether any of its samples was judged at all."""
    return any(is_trainable(sample) for sample in group)


FILTERS: dict[str, GroupFilter] = {"reward_nonzero_std": reward_nonzero_std, "any_reward": any_reward}
"""By the name that ``rollout.dynamic_sampling_filter`` takes."""
