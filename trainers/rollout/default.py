"""The shipped rollout: every sample is generated and scored on its own, as fast as the engines and judges allow."""

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engines.config import SamplingConfig
from engines.types import Generation, Sample, SampleStatus
from trainers.batch import is_trainable
from trainers.errors import RolloutFailed
from trainers.rollout.rewards import RewardFunction

__all__ = ["Generator", "RewardFunction", "RolloutStats", "generate_rollout"]

_ABORT_PAUSE_S = 0.05
_MAX_ABORT_PAUSE_S = 1.0


class Generator(Protocol):
    """What is asked of :class:`engines.client.GenerateClient`, which bounds the requests in flight."""

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
    ) -> Generation: ...


@dataclass(frozen=True, slots=True)
class RolloutStats:
    """What one rollout brought. Rewards are over the samples that can be trained on; NaN if there are none."""

    reward: float
    reward_std: float
    response_length: float
    """Mean, in tokens."""
    truncated_fraction: float
    num_samples: int
    num_left_out: int
    """Samples that failed or were not judged in time: masked out of the training."""
    num_continued: int
    """Times that an engine ended a response early and it was continued."""
    num_tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0

    def metrics(self) -> dict[str, float]:
        return {
            "reward": self.reward,
            "reward_std": self.reward_std,
            "response_length": self.response_length,
            "truncated_fraction": self.truncated_fraction,
            "num_samples": float(self.num_samples),
            "num_left_out": float(self.num_left_out),
            "num_continued": float(self.num_continued),
            "num_tokens": float(self.num_tokens),
            "rollout_s": self.seconds,
            "tokens_per_s": self.tokens_per_s,
        }


@dataclass(slots=True)
class _Progress:
    """Counts of one rollout in flight."""

    total: int
    generated: int = 0
    finished: int = 0
    continued: int = 0


async def generate_rollout(
    groups: list[list[Sample]],
    *,
    client: Generator,
    sampling: SamplingConfig,
    reward: RewardFunction,
    timeout_s: float,
    rollout_id: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[list[Sample]], RolloutStats]:
    """Fill the pending samples of ``groups`` in place: response, log-probabilities, versions, reward.

    A sample is scored as soon as it is complete, while others still generate. One whose judge says None is
    ``failed``. ``on_progress(finished, total)`` is called after each sample. Raises :class:`RolloutFailed` when
    ``timeout_s`` passes first, and whatever the client or the reward raises, after ending all other requests.
    """
    samples = [sample for group in groups for sample in group]
    progress = _Progress(total=len(samples))

    async def fill(sample: Sample) -> None:
        await _generate(sample, client, sampling, f"{rollout_id}-{sample.index}", progress)
        progress.generated += 1
        sample.reward = await reward(sample)
        if sample.reward is None:
            sample.status = SampleStatus.FAILED
        progress.finished += 1
        if on_progress is not None:
            on_progress(progress.finished, progress.total)

    started = time.perf_counter()
    deadline = asyncio.timeout(timeout_s)
    try:
        async with deadline, asyncio.TaskGroup() as tasks:
            for sample in samples:
                tasks.create_task(fill(sample))
    except TimeoutError:
        if not deadline.expired():
            raise
        generating = progress.total - progress.generated
        raise RolloutFailed(
            f"rollout {rollout_id}: {progress.total - progress.finished} of {progress.total} samples were unfinished "
            f"after rollout.timeout_s = {timeout_s:g} s: {generating} were generating, "
            f"{progress.generated - progress.finished} waited for their reward"
        ) from None
    except ExceptionGroup as group:
        raise group.exceptions[0] from group  # the first cancelled the rest
    return groups, _stats(samples, time.perf_counter() - started, progress.continued)


async def _generate(sample: Sample, client: Generator, sampling: SamplingConfig, rid: str, progress: _Progress) -> None:
    """Sample until the policy stops or the budget is spent. An engine that is aborted, say for a weight update,
    returns what it has: the rest is sampled from there, and each token keeps the version it came from."""
    attempt = fruitless = 0
    while True:
        generation = await client.generate(
            sample.tokens,
            sampling,
            rid=f"{rid}-{attempt}",
            max_new_tokens=sampling.max_new_tokens - sample.response_length,
        )
        sample.append_sampled(generation)
        if sample.status is not SampleStatus.ABORTED:
            return
        if sample.response_length >= sampling.max_new_tokens:
            sample.status = SampleStatus.TRUNCATED
            return
        attempt += 1
        progress.continued += 1
        if generation.output_ids:
            fruitless = 0
        else:
            # A paused engine may turn requests away for a while: do not spin. The rollout's deadline bounds this.
            await asyncio.sleep(min(_ABORT_PAUSE_S * 2**fruitless, _MAX_ABORT_PAUSE_S))
            fruitless = min(fruitless + 1, 10)


def _stats(samples: list[Sample], seconds: float, continued: int) -> RolloutStats:
    rewards = [sample.reward for sample in samples if is_trainable(sample) and sample.reward is not None]
    tokens = sum(sample.response_length for sample in samples)
    count = max(len(samples), 1)
    return RolloutStats(
        reward=statistics.fmean(rewards) if rewards else math.nan,
        reward_std=statistics.pstdev(rewards) if rewards else math.nan,
        response_length=tokens / count,
        truncated_fraction=sum(sample.truncated for sample in samples) / count,
        num_samples=len(samples),
        num_left_out=len(samples) - len(rewards),
        num_continued=continued,
        num_tokens=tokens,
        seconds=seconds,
    )
