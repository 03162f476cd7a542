"""Samples laid end to end: one micro-batch, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainers.megatron.attention import PackedSequences
from trainers.protocols import TrainSample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """N samples of T tokens in all, of which R are responses. Everything of shape [R] runs over the responses, one
    after the other."""

    tokens: Tensor
    """[1, T], int64."""
    positions: Tensor
    """[1, T], from 0 in each sample."""
    sequences: PackedSequences
    rows: Tensor
    """[R]: where in T the token before each response token is, whose output predicts it."""
    targets: Tensor
    """[R]: the response tokens."""
    loss_mask: Tensor
    """[R], float32."""
    rollout_log_probs: Tensor
    """[R], float32."""
    advantages: Tensor
    """[R], float32."""
    cu_responses: Tensor
    """[N + 1]: sample i's response is ``cu_responses[i]:cu_responses[i + 1]``."""
    trajectory_tokens: Tensor
    """[N], float32: mask-1 tokens of the trajectory that the sample is part of, in its optimizer step."""
    trajectory_heads: Tensor
    """[N], float32: 1 for one sample of each trajectory in an optimizer step, 0 for the others."""

    @property
    def num_samples(self) -> int:
        return len(self.cu_responses) - 1


def pack(samples: Sequence[TrainSample], device: torch.device | str) -> MicroBatch:
    """Every sample needs at least one prompt and one response token."""
    lengths = np.array([len(sample.tokens) for sample in samples])
    responses = np.array([sample.response_length for sample in samples])
    starts = np.cumsum(lengths) - lengths
    cu_responses = np.concatenate([[0], np.cumsum(responses)])
    tokens = np.concatenate([sample.tokens for sample in samples]).astype(np.int64)
    # Response token j of sample i is at starts[i] + T_i - R_i + j; the row before it predicts it.
    rows = np.repeat(starts + lengths - responses - cu_responses[:-1], responses) + np.arange(cu_responses[-1]) - 1

    def to(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return MicroBatch(
        tokens=to(tokens)[None],
        positions=to(np.arange(len(tokens)) - np.repeat(starts, lengths))[None],
        sequences=PackedSequences.of(lengths.tolist(), device),
        rows=to(rows),
        targets=to(tokens[rows + 1]),
        loss_mask=to(np.concatenate([sample.loss_mask for sample in samples]).astype(np.float32)),
        rollout_log_probs=to(np.concatenate([sample.rollout_log_probs for sample in samples]).astype(np.float32)),
        advantages=to(np.repeat(np.array([sample.advantage for sample in samples], np.float32), responses)),
        cu_responses=to(cu_responses),
        trajectory_tokens=to(np.array([sample.tokens_of_trajectory for sample in samples], np.float32)),
        trajectory_heads=to(np.array([sample.trajectory_head for sample in samples], np.float32)),
    )
