"""From the reward section of a job to the function that scores its samples."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from engines.types import Sample
from trainers.config import RewardConfig
from trainers.plugins import load_function
from trainers.rollout.rewards.custom import CustomReward
from trainers.rollout.rewards.exact import exact_match
from trainers.rollout.rewards.number import last_number, last_number_match
from trainers.rollout.rewards.pattern import PatternMatcher

type RewardFunction = Callable[[Sample], Awaitable[float | None]]
"""Scores one finished sample; None says that it could not be judged in time. A shipped rule always judges."""

MAX_PATTERN_S = 1.0
"""A search that takes longer is backtracking: the pattern does not match, for all that matters."""


def load_reward(config: RewardConfig) -> RewardFunction:
    """The rule or function of a job. Raises :class:`trainers.errors.PluginInvalid` for a function that cannot be
    used."""
    match config.type:
        case "exact_match":
            return _rule(exact_match)
        case "last_number":
            return _rule(last_number_match)
        case "regex_match":
            matcher = PatternMatcher(min(config.timeout_s, MAX_PATTERN_S))

            async def score(sample: Sample) -> float:
                return await matcher(sample.response, sample.label)

            return score
        case "custom":
            assert config.function is not None  # the config's own rule
            function = load_function(config.function, parameters=["sample"])
            return CustomReward(function, name=config.function, timeout_s=config.timeout_s)


def label_check(config: RewardConfig) -> Callable[[Any], None]:
    """A check that raises ValueError for a label that the rule can never reward, so that bad data is found
    before a run that would learn nothing from it."""

    def check(label: Any) -> None:
        if config.type == "custom":
            return
        if label is None:
            raise ValueError(f"no label, which reward type {config.type} compares with: set data.label_key")
        if isinstance(label, bool) or not isinstance(label, (str, int, float)):
            raise ValueError(f"label {label!r} is neither a string nor a number, as reward type {config.type} needs")
        if config.type == "last_number" and last_number(str(label)) is None:
            raise ValueError(f"label {label!r} holds no number, as reward type last_number needs")
        if config.type == "regex_match":
            try:
                re.compile(str(label))
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"label {label!r} is no regular expression: {error}") from None

    return check


def _rule(rule: Callable[[str, Any], float]) -> RewardFunction:
    async def score(sample: Sample) -> float:
        return rule(sample.response, sample.label)

    return score
