"""Evaluation: every prompt of every set, answered by one weight version."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engines.config import SamplingConfig
from engines.types import Sample
from trainers.config import EvalConfig
from trainers.errors import RolloutFailed
from trainers.plugins.run import Plugins
from trainers.rollout.estimates import summarize
from trainers.rollout.filling import Filler
from trainers.rollout.protocols import DataSource, RewardFunction, RolloutContext
from trainers.rollout.samples import readable
from trainers.rollout.tasks import end

_TOLD = ("index", "group_index", "prompt", "response", "label", "reward", "status", "response_length", "metadata")
"""Of a sample, in the file of an eval set."""

type Answer = Callable[[list[list[Sample]], SamplingConfig, RewardFunction, str], Awaitable[list[list[Sample]]]]
"""Generates and scores pending groups; the text names their requests."""


@dataclass(frozen=True, slots=True)
class EvalSet:
    """One eval set, ready to be asked."""

    name: str
    data: DataSource
    n_samples: int
    sampling: SamplingConfig
    reward: RewardFunction


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one set showed. ``metrics`` are those of :func:`trainers.rollout.estimates.summarize`, and counts."""

    name: str
    metrics: dict[str, float]
    samples_path: Path


class Evaluator:
    """The eval sets of a run, and how they are asked."""

    def __init__(self, sets: Sequence[EvalSet], config: EvalConfig, directory: Path, plugins: Plugins) -> None:
        """``plugins``: its ``eval_function`` asks in place of this, and its log function has a look at the metrics."""
        self._sets = sets
        self._config = config
        self._directory = directory
        self._plugins = plugins

    @property
    def names(self) -> str:
        return ", ".join(each.name for each in self._sets)

    async def __call__(self, context: RolloutContext) -> list[Evaluation]:
        """Every set with the version that the engines serve, which is the number of the next rollout."""
        context, version = replace(context, evaluating=True), context.weight_version
        if (own := self._plugins.eval_function) is not None:
            answered = await own(context, version)
            for name, groups in answered.items():
                _check_version(name, groups, version)
        else:
            answered = await self._ask_all(context)
        found: list[Evaluation] = []
        for name, groups in answered.items():
            each = await record(name, groups, version, self._config.pass_reward, self._directory)
            metrics = await self._plugins.eval_metrics(version, {name: groups}, each.metrics)
            found.append(replace(each, metrics=metrics))
        return found

    async def _ask_all(self, context: RolloutContext) -> dict[str, list[list[Sample]]]:
        async def answer(
            groups: list[list[Sample]], sampling: SamplingConfig, reward: RewardFunction, name: str
        ) -> list[list[Sample]]:
            filler = Filler(context, sampling=sampling, reward=reward, name=name)
            try:
                async with asyncio.TaskGroup() as tasks:
                    filling = [tasks.create_task(filler.fill(group)) for group in groups]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors  # the first cancelled the rest
            return [task.result() for task in filling]

        return await ask(self._sets, answer, weight_version=context.weight_version, timeout_s=self._config.timeout_s)


async def evaluate(
    sets: Sequence[EvalSet],
    answer: Answer,
    *,
    weight_version: int,
    pass_reward: float,
    timeout_s: float,
    directory: Path,
) -> list[Evaluation]:
    """Ask all sets at once and write their samples to ``directory``.

    Raises RolloutFailed when ``timeout_s`` passes first, or when an answer holds a token of another version than
    ``weight_version``: a figure that mixes policies belongs to none.
    """
    answered = await ask(sets, answer, weight_version=weight_version, timeout_s=timeout_s)
    return [await record(name, groups, weight_version, pass_reward, directory) for name, groups in answered.items()]


async def ask(
    sets: Sequence[EvalSet], answer: Answer, *, weight_version: int, timeout_s: float
) -> dict[str, list[list[Sample]]]:
    """The answers of all sets, asked at once, by the set's name. Raises as :func:`evaluate`."""
    beginnings = [each.data.state() for each in sets]
    asking = [asyncio.create_task(_ask(each, answer, weight_version)) for each in sets]
    try:
        done, left = await asyncio.wait(asking, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        answered = {each.name: task.result() for each, task in zip(sets, asking, strict=True) if task in done}
        if left:
            names = ", ".join(each.name for each in sets)
            raise RolloutFailed(
                f"the evaluation of {names} on weight version {weight_version} took longer than eval.timeout_s = "
                f"{timeout_s:g} s"
            )
        return answered
    finally:
        await end(asking)
        for each, beginning in zip(sets, beginnings, strict=True):
            each.data.load_state(beginning)  # the next evaluation asks the same


async def record(
    name: str, groups: list[list[Sample]], weight_version: int, pass_reward: float, directory: Path
) -> Evaluation:
    """The figures of one set's answers, whose samples are written to ``directory``."""
    path = directory / f"{name}-v{weight_version:07d}.jsonl"
    await asyncio.to_thread(_write, path, [sample for group in groups for sample in group])
    return Evaluation(name, _metrics(groups, pass_reward), path)


async def _ask(each: EvalSet, answer: Answer, weight_version: int) -> list[list[Sample]]:
    groups = each.data.next_groups(len(each.data), each.n_samples)
    groups = await answer(groups, each.sampling, each.reward, f"eval-{each.name}-{weight_version}")
    _check_version(each.name, groups, weight_version)
    return groups


def _check_version(name: str, groups: Iterable[Sequence[Sample]], weight_version: int) -> None:
    for sample in (sample for group in groups for sample in group):
        if strangers := set(sample.weight_versions) - {weight_version}:
            raise RolloutFailed(
                f"the evaluation of {name}: sample {sample.index} holds tokens of weight version {min(strangers)}, "
                f"not {weight_version}"
            )


def _metrics(groups: Iterable[Sequence[Sample]], pass_reward: float) -> dict[str, float]:
    scored = [[sample.reward for sample in group if sample.reward is not None] for group in groups]
    samples = [sample for group in groups for sample in group]
    count = max(len(samples), 1)
    return {
        **summarize(scored, pass_reward=pass_reward),
        "response_length": sum(sample.response_length for sample in samples) / count,
        "truncated_fraction": sum(sample.truncated for sample in samples) / count,
        "num_samples": float(len(samples)),
        "num_unscored": float(len(samples) - sum(map(len, scored))),
    }


def _write(path: Path, samples: Iterable[Sample]) -> None:
    """Whole or not at all: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for sample in samples:
            fields = readable(sample)
            file.write(json.dumps({name: fields[name] for name in _TOLD}, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
