"""What one rollout brought, as figures."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engines.types import Sample
from trainers.batch import is_trainable


@dataclass(frozen=True, slots=True)
class RolloutStats:
    """Rewards are over the samples that can be trained on; NaN if there are none."""

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
    """Of the responses, those sampled in earlier rollouts too."""
    stale_fraction: float
    """Mask-1 tokens of an earlier weight version than the rollout's, of all response tokens."""
    max_staleness: int
    """Weight versions between the rollout's and that of the oldest token."""
    num_late: int
    """Samples that took longer than ``rollout.sample_timeout_s``, dropped groups' too."""
    judge_s: float
    """Mean time that a sample waited for its reward."""
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
            "stale_fraction": self.stale_fraction,
            "max_staleness": float(self.max_staleness),
            "num_late": float(self.num_late),
            "judge_s": self.judge_s,
            "rollout_s": self.seconds,
            "tokens_per_s": self.tokens_per_s,
        }


def stats_of(
    groups: Iterable[Sequence[Sample]],
    *,
    weight_version: int,
    continued: int,
    late: int,
    judging_s: float,
    seconds: float,
) -> RolloutStats:
    """``judging_s``: the sum over samples."""
    samples = [sample for group in groups for sample in group]
    rewards = [sample.reward for sample in samples if is_trainable(sample) and sample.reward is not None]
    tokens = sum(sample.response_length for sample in samples)
    oldest = min((min(sample.weight_versions) for sample in samples if sample.weight_versions), default=weight_version)
    stale = 0
    for sample in samples:
        if sample.weight_versions and min(sample.weight_versions) < weight_version:
            stale += sum(
                bit and version < weight_version
                for bit, version in zip(sample.loss_mask, sample.weight_versions, strict=True)
            )
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
        stale_fraction=stale / max(tokens, 1),
        max_staleness=max(weight_version - oldest, 0),
        num_late=late,
        judge_s=judging_s / count,
        seconds=seconds,
    )
