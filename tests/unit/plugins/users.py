"""What users might write: good and bad."""

import asyncio
from dataclasses import replace
from typing import Any

from engines.config import SamplingConfig
from engines.types import Sample
from trainers.rollout.protocols import RolloutContext, RolloutOutput


async def rollout(context: RolloutContext, rollout_id: int) -> RolloutOutput:
    return RolloutOutput(context.data.next_groups(1, 1), {"seen": float(rollout_id)})


def plain_rollout(context: RolloutContext, rollout_id: int) -> RolloutOutput:
    raise NotImplementedError


async def generate(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> Sample:
    return sample


async def swapped(sample: Sample, context: RolloutContext, sampling: SamplingConfig) -> Sample:
    return sample


async def short(context: RolloutContext, sample: Sample) -> Sample:
    return sample


async def says_text(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> str:
    return sample.response


async def two(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> list[Sample]:
    return [sample, sample]


async def wrong(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> Any:
    return sample.response


async def fails(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> Any:
    raise KeyError("lost")


async def exits(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> Any:
    raise SystemExit(3)


async def loses_a_task(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> Any:
    tool = asyncio.create_task(asyncio.sleep(60))
    tool.cancel()
    await tool


def reward(sample: Sample) -> float:
    return float(len(sample.response))


def keep_fails(group: list[Sample]) -> bool:
    raise KeyError("lost")


def filter_fails(buffer: list[list[Sample]], n_groups: int) -> list[list[Sample]]:
    raise KeyError("lost")


def finds_nothing(groups: list[list[Sample]]) -> None:
    next(sample for group in groups for sample in group if sample.index < 0)


def keep(group: list[Sample]) -> bool:
    return len({sample.reward for sample in group}) > 1


async def async_keep(group: list[Sample]) -> bool:
    return True


def is_short(sample: Sample, group: list[Sample]) -> bool:
    return sample.response_length < 3


def outcomes(groups: list[list[Sample]]) -> list[list[float]]:
    return [[1.0 if sample.reward else -1.0 for sample in group] for group in groups]


def too_few(groups: list[list[Sample]]) -> list[list[float]]:
    return [[1.0]]


def log(rollout_id: int, groups: list[list[Sample]], metrics: dict[str, float]) -> dict[str, float]:
    return metrics | {"groups": float(len(groups))}


async def evaluation(context: RolloutContext, rollout_id: int) -> dict[str, list[list[Sample]]]:
    [[sample]] = context.data.next_groups(1, 1)
    sample.response_length, sample.reward, sample.weight_versions = 1, 1.0, [rollout_id]
    sample.tokens = [*sample.tokens, 7]
    return {"mine": [[sample]]}


async def evaluates_to_nothing(context: RolloutContext, rollout_id: int) -> Any:
    return None


async def evaluates_without_names(context: RolloutContext, rollout_id: int) -> Any:
    return context.data.next_groups(1, 1)


async def split_attempts(context: RolloutContext, rollout_id: int) -> Any:
    """The first attempt of the group is two samples, the second is one."""
    [[first, second]] = context.data.next_groups(1, 2)
    return [[[first, replace(first)], second]]


async def loses_a_sample(context: RolloutContext, rollout_id: int) -> Any:
    return [[*context.data.next_groups(1, 1)[0], None]]


async def never(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> Sample:
    await asyncio.Event().wait()
    return sample


def takes_nothing(buffer: list[list[Sample]], n_groups: int) -> Any:
    return None


def keep_several(group: list[Sample]) -> Any:
    import numpy as np

    return np.array([1, 2])


def eval_log(rollout_id: int, sets: Any, metrics: dict[str, float]) -> dict[str, float]:
    return {"only": metrics["reward"] + len(sets["mine"])}


def loss(inputs: Any, algorithm: Any) -> Any:
    return inputs


def slime_loss(args: Any, batch: Any, logits: Any, reducer: Any) -> Any:
    return logits


class Prompts:
    def __init__(self, config: Any, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return 1

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        return [[Sample(index=0, group_index=0, prompt="p", tokens=[1])]]

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...


class Empty(Prompts):
    """Whose prompts have run out."""

    def next_groups(self, n_prompts: int, n_samples: int) -> Any:
        return None

    def __len__(self) -> int:
        return len(self.lost)  # type: ignore[attr-defined]


class Stateless:
    def __init__(self, config: Any, tokenizer: Any) -> None: ...

    def __len__(self) -> int:
        return 1

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        return []


not_a_function = 3


def plain_generate(args: Any, sample: Any, sampling_params: dict[str, Any]) -> Any:
    return sample


async def generate_yields(args: Any, sample: Any, sampling_params: dict[str, Any]) -> Any:
    yield sample


async def generate_with_tool(args: Any, sample: Any, sampling_params: dict[str, Any], *, tool: str) -> Any:
    return sample
