"""From the reward section of a job to what scores its samples."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from engines.types import Sample
from trainers.config.reward import (
    CodeRewardConfig,
    CustomRewardConfig,
    DAPORewardConfig,
    DeepscalerRewardConfig,
    MathRewardConfig,
    ReasoningGymRewardConfig,
    RegexMatchRewardConfig,
    RemoteRewardConfig,
    RewardConfig,
    RuleConfig,
    WeightedRewardConfig,
)
from trainers.plugins import load_function
from trainers.rollout.rewards import gym
from trainers.rollout.rewards.answer import after_thoughts, last_boxed
from trainers.rollout.rewards.choice import gpqa
from trainers.rollout.rewards.code.judge import CodeReward
from trainers.rollout.rewards.code.sandbox import require_isolation
from trainers.rollout.rewards.custom import CustomReward
from trainers.rollout.rewards.dapo import dapo
from trainers.rollout.rewards.exact import exact_match
from trainers.rollout.rewards.number import last_number_match
from trainers.rollout.rewards.overlap import f1
from trainers.rollout.rewards.pattern import PatternMatcher
from trainers.rollout.rewards.pool import WorkerPool
from trainers.rollout.rewards.remote import RemoteReward
from trainers.rollout.rewards.resources import Resources
from trainers.rollout.rewards.reward import Reward
from trainers.rollout.rewards.selection import rule_of
from trainers.rollout.rewards.verdict import Judge, Unjudgeable, Verdict
from trainers.rollout.rewards.weighted import WeightedJudge

type RewardFunction = Callable[[Sample], Awaitable[float | None]]
"""Scores one finished sample; None says that it could not be judged in time. A shipped rule always judges."""

MAX_PATTERN_S = 1.0
"""A search that takes longer is backtracking: the pattern does not match, for all that matters."""
MAX_EQUALITY_S = 3.0
"""Two answers that take longer to compare are no answers: tens of milliseconds are usual."""
MAX_GYM_S = 10.0


class LoadFunction(Protocol):
    """Finds a user's function by its path; ``field`` holds it, for errors."""

    def __call__(self, path: str, *, by_group: bool, field: str) -> Callable[..., Any]: ...


def load_reward(
    config: RewardConfig, *, functions: LoadFunction | None = None, field: str = "rollout.reward"
) -> Reward:
    """The rule or function of a job, which ``field`` holds; a path is loaded as it is, or by ``functions`` where that
    is given.

    Raises :class:`trainers.errors.PluginInvalid` for a function that cannot be used, and ConfigInvalid where programs
    cannot be run in isolation. Starts nothing: workers and connections come with the first samples.
    """
    resources = Resources()
    functions = functions or _as_it_is
    if isinstance(config, WeightedRewardConfig):
        parts = [
            (part.name, part.weight, _judge(part.reward, resources, functions, f"{field}.parts[{number}].reward"))
            for number, part in enumerate(config.parts)
        ]
        return Reward(WeightedJudge(parts), group_judge=None, resources=resources)
    if isinstance(config, CustomRewardConfig):
        custom = _custom(config, functions, field)
        if config.by_group:
            return Reward(None, group_judge=custom.score_group, resources=resources)
        return Reward(custom, group_judge=None, resources=resources)
    return Reward(_Selected(config, resources, functions, field), group_judge=None, resources=resources)


class _Selected:
    """Judges each sample by the job's rule, or by the one that its metadata names; loads the others when they are
    first named."""

    def __init__(self, config: RewardConfig, resources: Resources, functions: LoadFunction, field: str) -> None:
        self._config = config
        self._field = field
        self._functions = functions
        self._resources = resources
        self._judges: dict[RuleConfig, Judge] = {}
        own = rule_of(config, {})
        if own is not None:
            self._judges[own] = _judge(own, resources, functions, field)

    async def __call__(self, sample: Sample) -> Verdict | None:
        try:
            rule = rule_of(self._config, sample.metadata)
        except ValueError as error:
            raise Unjudgeable(str(error)) from None
        if rule is None:
            raise Unjudgeable('reward type from_metadata needs metadata["rm_type"] to name its rule')
        if rule not in self._judges:
            self._judges[rule] = _judge(rule, self._resources, self._functions, self._field)
        return await self._judges[rule](sample)


def _judge(config: RuleConfig, resources: Resources, functions: LoadFunction, field: str) -> Judge:
    match config:
        case RegexMatchRewardConfig():
            matcher = PatternMatcher(min(config.timeout_s, MAX_PATTERN_S))
            resources.push_async_callback(matcher.close)

            async def match(sample: Sample) -> Verdict:
                text = last_boxed(sample.response) if config.boxed else sample.response
                return Verdict(0.0 if text is None else await matcher(text, sample.label))

            return match
        case MathRewardConfig():
            return _equality(config, resources, lambda response: response)
        case DeepscalerRewardConfig():
            return _equality(config, resources, after_thoughts)
        case DAPORewardConfig():

            async def state(sample: Sample) -> Verdict:
                parts = dapo(sample.response, sample.label, strict_box=config.strict_box)
                return Verdict(parts[config.reward_key], parts)

            return state
        case ReasoningGymRewardConfig():
            return _reasoning_gym(config, resources)
        case CodeRewardConfig():
            return CodeReward(config)
        case RemoteRewardConfig():
            remote = RemoteReward(config)
            resources.push_async_callback(remote.close)
            return remote
        case CustomRewardConfig():
            return _custom(config, functions, field)
        case _:
            return _rule(_RULES[config.type], boxed=config.boxed)


def _custom(config: CustomRewardConfig, functions: LoadFunction, field: str) -> CustomReward:
    function = functions(config.function, by_group=config.by_group, field=f"{field}.function")
    return CustomReward(function, name=config.function, timeout_s=config.timeout_s, reward_key=config.reward_key)


def _as_it_is(path: str, *, by_group: bool, field: str) -> Callable[..., Any]:
    return load_function(path, parameters=["samples" if by_group else "sample"])


_RULES: dict[str, Callable[[str, Any, Mapping[str, Any]], float]] = {
    "exact_match": lambda response, label, _: exact_match(response, label),
    "last_number": lambda response, label, _: last_number_match(response, label),
    "f1": lambda response, label, _: f1(response, label),
    "gpqa": gpqa,
}


def _rule(rule: Callable[[str, Any, Mapping[str, Any]], float], *, boxed: bool) -> Judge:
    async def judge(sample: Sample) -> Verdict:
        text = last_boxed(sample.response) if boxed else sample.response
        return Verdict(0.0 if text is None else rule(text, sample.label, sample.metadata))

    return judge


def _equality(
    config: MathRewardConfig | DeepscalerRewardConfig, resources: Resources, part: Callable[[str], str | None]
) -> Judge:
    pool = resources.equality(config.workers)
    deadline_s = min(config.timeout_s, MAX_EQUALITY_S)

    async def judge(sample: Sample) -> Verdict:
        text = part(sample.response)
        answer = None if text is None else last_boxed(text)
        if not answer:
            return Verdict(0.0)
        label = str(sample.label)
        expected = last_boxed(label) or label  # a label may be a whole solution
        return Verdict(await pool.judge({"answer": answer, "label": expected}, deadline_s))

    return judge


def _reasoning_gym(config: ReasoningGymRewardConfig, resources: Resources) -> Judge:
    gym.check_installed()
    # Some data sets evaluate an answer as Python.
    isolated = require_isolation("reasoning_gym", allow_network=config.allow_network)
    pool = WorkerPool("reasoning_gym", config.workers, isolated=isolated)
    resources.push_async_callback(pool.close)
    deadline_s = min(config.timeout_s, MAX_GYM_S)

    async def judge(sample: Sample) -> Verdict:
        prompt = sample.prompt if isinstance(sample.prompt, str) else str(sample.prompt)
        entry = gym.entry_of(sample.metadata, prompt=prompt, label=sample.label)
        task = config.task or gym.task_of(entry)
        if not isinstance(task, str):
            raise Unjudgeable("reasoning_gym has no task: say reward.task, or source_dataset in the entry's metadata")
        question = {"task": task, "answer": gym.answer_of(sample.response), "entry": entry}
        return Verdict(await pool.judge(question, deadline_s))

    return judge
