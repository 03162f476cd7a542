"""Evaluation: every prompt of every set, answered by one weight version."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.config import SamplingConfig
from engines.types import Sample
from trainers.config import EvalConfig
from trainers.errors import RolloutFailed
from trainers.rollout.estimates import summarize
from trainers.rollout.filling import Filler
from trainers.rollout.protocols import DataSource, RewardFunction, RolloutContext

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

    def __init__(self, sets: Sequence[EvalSet], config: EvalConfig, directory: Path) -> None:
        self._sets = sets
        self._config = config
        self._directory = directory

    @property
    def names(self) -> str:
        return ", ".join(each.name for each in self._sets)

    async def __call__(self, context: RolloutContext) -> list[Evaluation]:
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

        return await evaluate(
            self._sets,
            answer,
            weight_version=context.weight_version,
            pass_reward=self._config.pass_reward,
            timeout_s=self._config.timeout_s,
            directory=self._directory,
        )


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
    beginnings = [each.data.state() for each in sets]
    try:
        async with asyncio.timeout(timeout_s):
            answered = await asyncio.gather(*(_ask(each, answer, weight_version) for each in sets))
    except TimeoutError:
        names = ", ".join(each.name for each in sets)
        raise RolloutFailed(
            f"the evaluation of {names} on weight version {weight_version} took longer than eval.timeout_s = "
            f"{timeout_s:g} s"
        ) from None
    finally:
        for each, beginning in zip(sets, beginnings, strict=True):
            each.data.load_state(beginning)  # the next evaluation asks the same
    found: list[Evaluation] = []
    for each, groups in zip(sets, answered, strict=True):
        path = directory / f"{each.name}-v{weight_version:07d}.jsonl"
        samples = [sample for group in groups for sample in group]
        await asyncio.to_thread(_write, path, samples)
        found.append(Evaluation(each.name, _metrics(groups, pass_reward), path))
    return found


async def _ask(each: EvalSet, answer: Answer, weight_version: int) -> list[list[Sample]]:
    groups = each.data.next_groups(len(each.data), each.n_samples)
    groups = await answer(groups, each.sampling, each.reward, f"eval-{each.name}-{weight_version}")
    for group in groups:
        for sample in group:
            if strangers := set(sample.weight_versions) - {weight_version}:
                raise RolloutFailed(
                    f"the evaluation of {each.name}: sample {sample.index} holds tokens of weight version "
                    f"{min(strangers)}, not {weight_version}"
                )
    return groups


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
            file.write(json.dumps(_readable(sample), ensure_ascii=False, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _readable(sample: Sample) -> dict[str, Any]:
    return {
        "index": sample.index,
        "group_index": sample.group_index,
        "prompt": sample.prompt,
        "response": sample.response,
        "label": sample.label,
        "reward": sample.reward,
        "status": sample.status.value,
        "response_length": sample.response_length,
        "metadata": sample.metadata,
    }
