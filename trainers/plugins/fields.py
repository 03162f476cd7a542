"""Where in its spec a job names functions of the user's."""

from collections.abc import Iterator

from trainers.config import RunConfig
from trainers.config.reward import CustomRewardConfig, RewardConfig, RuleConfig, WeightedRewardConfig
from trainers.plugins.doors import DOORS


def named(config: RunConfig) -> list[tuple[str, str, str]]:
    """Door, field and path of each plug-in that the job names."""
    found = [
        (name, f"plugins.{name}", path)
        for name in type(config.plugins).model_fields
        if name in DOORS and (path := getattr(config.plugins, name)) is not None
    ]
    for field, reward in _rules(config):
        if isinstance(reward, CustomRewardConfig):
            found.append(("group_rm" if reward.by_group else "custom_rm", f"{field}.function", reward.function))
    keep = getattr(config.rollout, "dynamic_sampling_filter", None)
    if keep is not None and (":" in keep or "." in keep):  # the others are shipped, by name
        found.append(("dynamic_sampling_filter", "rollout.dynamic_sampling_filter", keep))
    for name in ("custom_loss", "custom_advantage"):
        if (path := getattr(config.algorithm, name, None)) is not None:
            found.append((name, f"algorithm.{name}", path))
    return found


def reward_of_set(config: RunConfig, number: int) -> tuple[str, RewardConfig]:
    """The field and the reward by which eval set ``number`` is scored: its own, the evaluation's or the rollout's."""
    if (own := config.eval.sets[number].reward) is not None:
        return f"eval.sets[{number}].reward", own
    if config.eval.reward is not None:
        return "eval.reward", config.eval.reward
    return "rollout.reward", config.rollout.reward


def _rules(config: RunConfig) -> Iterator[tuple[str, RewardConfig | RuleConfig]]:
    """Each reward that the job uses, by its field; a sum is followed by its parts."""
    used = {"rollout.reward": config.rollout.reward}
    used |= dict(reward_of_set(config, number) for number in range(len(config.eval.sets)))
    for field, reward in used.items():
        yield field, reward
        if isinstance(reward, WeightedRewardConfig):
            for number, part in enumerate(reward.parts):
                yield f"{field}.parts[{number}].reward", part.reward
