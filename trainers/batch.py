"""From samples to a batch that can be trained on. Pure: the same samples give the same batch on every machine."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from engines.types import Sample, SampleStatus
from trainers.config import (
    AlgorithmConfig,
    CISPOConfig,
    DPOConfig,
    DrGRPOConfig,
    GRPOConfig,
    GSPOConfig,
    PPOConfig,
    ReinforcePlusPlusBaselineConfig,
    ReinforcePlusPlusConfig,
    RLOOConfig,
    SFTConfig,
)
from trainers.errors import ConfigInvalid, RolloutFailed
from trainers.micro_batches import plan_micro_batches
from trainers.protocols import MicroBatchPlan, TrainBatch, TrainSample
from trainers.rl.advantages import group_normalize, leave_one_out


def is_trainable(sample: Sample) -> bool:
    """Whether a sample has an outcome to learn from. One that has not (failed, aborted, or never judged)
    keeps its place in the batch with every token masked, and is no part of its group's statistics."""
    return sample.reward is not None and sample.status in (SampleStatus.COMPLETED, SampleStatus.TRUNCATED)


def build_train_batch(
    rollout_id: int,
    groups: Sequence[Sequence[Sample]],
    algorithm: AlgorithmConfig,
    *,
    global_batch_size: int,
    data_parallel_size: int,
    max_tokens: int | None = None,
    micro_batch_size: int | None = None,
    multiple_of: int = 1,
    tokens_padded_to: int = 1,
    outcomes: Sequence[Sequence[float]] | None = None,
) -> TrainBatch:
    """Check the samples, turn rewards into what the algorithm makes of them, and plan the micro-batches.

    Every sample of the batch has at least one prompt and one response token (R ≥ 1, T > R). Samples of a rollout that
    have a ``trajectory_index`` in common are told how long it is. Under DPO a group is a chosen sample and its rejected
    one, and stays together. ``outcomes``, one for each sample of each group, take the place of what the algorithm
    makes of the rewards; those of samples without a reward are not used.

    Raises :class:`RolloutFailed` for a sample that contradicts itself, a rollout with nothing to learn from,
    :class:`ConfigInvalid` for steps that would part pairs. The sizes are those of :func:`plan_micro_batches`, where a
    sample counts as many tokens as it has once padded.
    """
    samples = [sample for group in groups for sample in group]
    for sample in samples:
        _check(rollout_id, sample)
    scored = [i for i, sample in enumerate(samples) if is_trainable(sample)]
    if not scored:
        counts = {status.value: n for status in SampleStatus if (n := sum(s.status is status for s in samples))}
        raise RolloutFailed(f"rollout {rollout_id}: none of its {len(samples)} samples has a reward: {counts}")
    made = [0.0] * len(samples)
    if outcomes is not None:
        given = [outcome for each in outcomes for outcome in each]
        for i in scored:
            made[i] = given[i]
    else:
        group_of = [number for number, group in enumerate(groups) for _ in group]
        rewards = torch.tensor([samples[i].reward for i in scored], dtype=torch.float64)
        of_algorithm = _outcomes(rewards, torch.tensor([group_of[i] for i in scored]), algorithm)
        for i, outcome in zip(scored, of_algorithm.tolist(), strict=True):
            made[i] = outcome
    train_samples = [_train_sample(sample, each) for sample, each in zip(samples, made, strict=True)]
    paired = isinstance(algorithm, DPOConfig)
    if paired:
        _check_pairs(rollout_id, groups, global_batch_size)
    width = 2 if paired else 1
    lengths = [-(-len(sample.tokens) // tokens_padded_to) * tokens_padded_to for sample in train_samples]
    plan = plan_micro_batches(
        [sum(lengths[i : i + width]) for i in range(0, len(lengths), width)],
        global_batch_size=global_batch_size // width,
        data_parallel_size=data_parallel_size,
        max_tokens=max_tokens,
        micro_batch_size=None if micro_batch_size is None else max(1, micro_batch_size // width),
        multiple_of=multiple_of,
    )
    if paired:
        plan = _of_pairs(plan)
    trajectories = [sample.trajectory_index for sample in samples]
    return TrainBatch(
        rollout_id=rollout_id,
        samples=_with_trajectories(train_samples, trajectories, plan),
        plan=plan,
        weight_version=max(version for sample in samples for version in sample.weight_versions),
    )


def _outcomes(rewards: torch.Tensor, group_ids: torch.Tensor, algorithm: AlgorithmConfig) -> torch.Tensor:
    """Rewards as the algorithm compares them, [N]."""
    match algorithm:
        case GRPOConfig() | GSPOConfig() | CISPOConfig():
            if not algorithm.normalize_rewards:
                return rewards
            return group_normalize(rewards, group_ids, normalize_std=algorithm.normalize_std)
        case DrGRPOConfig():
            return group_normalize(rewards, group_ids, normalize_std=False)
        case ReinforcePlusPlusBaselineConfig():
            return group_normalize(rewards, group_ids, normalize_std=False) if algorithm.normalize_rewards else rewards
        case RLOOConfig():
            return leave_one_out(rewards, group_ids)
        case PPOConfig() | ReinforcePlusPlusConfig() | SFTConfig() | DPOConfig():
            return rewards


def _check_pairs(rollout_id: int, groups: Sequence[Sequence[Sample]], global_batch_size: int) -> None:
    for number, group in enumerate(groups):
        if len(group) != 2:
            raise RolloutFailed(
                f"rollout {rollout_id}, group {number}: DPO compares a chosen sample with a rejected one; it has "
                f"{len(group)} samples"
            )
    if global_batch_size % 2:
        raise ConfigInvalid(f"trainer.global_batch_size ({global_batch_size}) must be even: DPO trains on pairs")


def _of_pairs(plan: MicroBatchPlan) -> MicroBatchPlan:
    """Positions of samples from those of pairs."""
    return MicroBatchPlan(
        [
            [[[2 * pair + side for pair in members for side in (0, 1)] for members in batches] for batches in ranks]
            for ranks in plan.steps
        ]
    )


def _with_trajectories(
    samples: Sequence[TrainSample], trajectories: Sequence[int | None], plan: MicroBatchPlan
) -> list[TrainSample]:
    """Samples that share a trajectory in an optimizer step, told how many mask-1 tokens it has there, and the first of
    them that it counts."""
    found = list(samples)
    for ranks in plan.steps:
        members: dict[int, list[int]] = {}
        for i in sorted(i for batches in ranks for batch in batches for i in batch):
            if (trajectory := trajectories[i]) is not None:
                members.setdefault(trajectory, []).append(i)
        for siblings in members.values():
            tokens = float(sum(samples[i].loss_mask.sum() for i in siblings))
            for i in siblings:
                found[i] = replace(found[i], trajectory_tokens=tokens, trajectory_head=i == siblings[0])
    return found


def _train_sample(sample: Sample, advantage: float) -> TrainSample:
    tokens, mask, log_probs = sample.tokens, sample.loss_mask, sample.rollout_log_probs
    if not sample.response_length:
        # A failed sample that never got a token: a masked copy of the prompt's end keeps R ≥ 1 everywhere.
        tokens, mask, log_probs = [*tokens, tokens[-1]], [0], [0.0]
    if not is_trainable(sample):
        mask = [0] * len(mask)
    return TrainSample(
        tokens=np.asarray(tokens, dtype=np.int32),
        loss_mask=np.asarray(mask, dtype=np.float32),
        rollout_log_probs=np.asarray(log_probs, dtype=np.float32),
        advantage=advantage,
    )


def _check(rollout_id: int, sample: Sample) -> None:
    """A sample that contradicts itself comes from a faulty plug-in or engine; training on it would mislabel."""
    where = f"rollout {rollout_id}, sample {sample.index}"
    if sample.status is SampleStatus.PENDING:
        raise RolloutFailed(f"{where}: status is still pending: it was never generated")
    count = sample.response_length
    lists = {
        "loss_mask": sample.loss_mask,
        "rollout_log_probs": sample.rollout_log_probs,
        "weight_versions": sample.weight_versions,
    }
    for name, values in lists.items():
        if len(values) != count:
            raise RolloutFailed(f"{where}: {name} has {len(values)} entries for response_length {count}")
    if len(sample.tokens) <= count:
        raise RolloutFailed(
            f"{where}: {len(sample.tokens)} tokens with response_length {count}: at least one must be the prompt's"
        )
    if is_trainable(sample) and not count:
        raise RolloutFailed(f"{where}: status is {sample.status} but there is no response token")
    if any(bit not in (0, 1) for bit in sample.loss_mask):
        raise RolloutFailed(f"{where}: loss_mask holds something other than 0 and 1")
    if not all(math.isfinite(value) for value in sample.rollout_log_probs):
        raise RolloutFailed(f"{where}: rollout_log_probs holds a value that is not finite")
    if sample.reward is not None and not math.isfinite(sample.reward):
        raise RolloutFailed(f"{where}: reward is {sample.reward}")
