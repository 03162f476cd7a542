"""Labels that a rule can never reward are found before a run that would learn nothing from them."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from trainers.config.reward import (
    CodeRewardConfig,
    CustomRewardConfig,
    ReasoningGymRewardConfig,
    RemoteRewardConfig,
    RewardConfig,
    RuleConfig,
    WeightedRewardConfig,
)
from trainers.rollout.rewards import gym
from trainers.rollout.rewards.choice import right_letter
from trainers.rollout.rewards.code.cases import cases_of
from trainers.rollout.rewards.dapo import normalize
from trainers.rollout.rewards.number import last_number
from trainers.rollout.rewards.overlap import golds, words
from trainers.rollout.rewards.selection import rule_of


class LabelCheck(Protocol):
    def __call__(self, label: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Raise ValueError for a row that can never be rewarded. Without its metadata, what only that can tell is
        not checked."""
        ...


def label_check(config: RewardConfig) -> LabelCheck:
    """The check for a job's reward."""

    def check(label: Any, metadata: Mapping[str, Any] | None = None) -> None:
        if isinstance(config, CustomRewardConfig):
            return
        if isinstance(config, WeightedRewardConfig):
            for part in config.parts:
                _check(part.reward, label, metadata)
            return
        rule = rule_of(config, metadata or {})
        if rule is not None:
            _check(rule, label, metadata)
        elif metadata is not None:
            raise ValueError('reward type from_metadata needs metadata["rm_type"] to name the rule of each sample')

    return check


def _check(rule: RuleConfig, label: Any, metadata: Mapping[str, Any] | None) -> None:
    match rule:
        case CustomRewardConfig() | RemoteRewardConfig():
            return
        case CodeRewardConfig():
            if metadata is not None:
                cases_of(metadata)
            return
        case ReasoningGymRewardConfig():
            if metadata is not None and rule.task is None:
                entry = gym.entry_of(metadata, prompt="", label=label)
                if not isinstance(gym.task_of(entry), str):
                    raise ValueError("no task: say reward.task, or source_dataset in the entry's metadata")
            return
        case _:
            pass
    kind = rule.type
    if kind == "gpqa" and metadata and right_letter(label, metadata) is not None:
        return  # the metadata may say all
    if label is None:
        raise ValueError(f"no label, which reward type {kind} compares with: set data.label_key")
    if kind == "f1" and isinstance(label, list | tuple):
        if not any(words(gold) for gold in golds(label)):
            raise ValueError(f"label {label!r} holds no answer with a word in it, as reward type f1 needs")
        return
    if isinstance(label, bool) or not isinstance(label, (str, int, float)):
        raise ValueError(f"label {label!r} is neither a string nor a number, as reward type {kind} needs")
    if wrong := _wrong(kind, label, metadata):
        raise ValueError(f"label {label!r} {wrong}")


def _wrong(kind: str, label: str | float, metadata: Mapping[str, Any] | None) -> str | None:
    text = str(label)
    checks: dict[str, Callable[[], bool]] = {
        "last_number": lambda: last_number(text) is not None,
        "f1": lambda: bool(words(text)),
        "math": lambda: bool(text.strip()),
        "deepscaler": lambda: bool(text.strip()),
        "dapo": lambda: bool(normalize(text)),
        "gpqa": lambda: metadata is None or right_letter(label, metadata) is not None,
    }
    needs = {
        "last_number": "holds no number",
        "f1": "holds no word",
        "math": "is empty",
        "deepscaler": "is empty",
        "dapo": "is empty once it is normalised",
        "gpqa": "names no choice by its letter, text or number",
    }
    if kind == "regex_match":
        try:
            re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            return f"is no regular expression: {error}"
    if kind in checks and not checks[kind]():
        return f"{needs[kind]}, as reward type {kind} needs" if kind == "last_number" else f"{needs[kind]}"
    return None
