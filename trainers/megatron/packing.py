"""Samples laid end to end: one micro-batch, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from trainers.megatron.attention import PackedSequences, ZigZag
from trainers.protocols import TrainSample


@dataclass(frozen=True, slots=True)
class TokenSplit:
    """Which of a micro-batch's tokens are this rank's.

    With ``size`` above 1 each sample, padded to a multiple of 2·size, is cut into 2·size chunks, of which rank r has
    the r-th and the r-th from the end: causal attention then costs every rank the same.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    multiple_of: int = 1
    """A rank's tokens are padded to a multiple of this: sequence parallelism splits them evenly again."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """N samples of which R tokens are responses, in T tokens of this rank. Everything of shape [R] runs over the
    responses, one after the other, and is the same on all context-parallel ranks; of their rows in T this rank has r.
    """

    tokens: Tensor
    """[1, T], int64."""
    positions: Tensor
    """[1, T], from 0 in each sample."""
    sequences: PackedSequences
    rows: Tensor
    """[r]: where in T the token before a response token is, whose output predicts it."""
    targets: Tensor
    """[r]: the response tokens that the rows predict."""
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
    places: Tensor | None = None
    """[r]: which of the R response tokens each row predicts; None: all in order, r = R."""
    num_tokens: int = 0
    """Of the samples, on all context-parallel ranks together and without padding."""
    num_squared_tokens: int = 0
    """Σ length², to which the cost of attention is proportional."""
    group: dist.ProcessGroup | None = None
    """The context-parallel ranks; None when there is one."""

    @property
    def num_samples(self) -> int:
        return len(self.cu_responses) - 1


def pack(samples: Sequence[TrainSample], device: torch.device | str, split: TokenSplit | None = None) -> MicroBatch:
    """Every sample needs at least one prompt and one response token. No samples at all give a micro-batch of padding
    without responses, with which its rank can take part in the step."""
    split = split or TokenSplit()
    lengths = np.array([len(sample.tokens) for sample in samples], np.int64)
    responses = np.array([sample.response_length for sample in samples], np.int64)
    padded = _padded(lengths if samples else np.ones(1, np.int64), split)
    starts = np.cumsum(padded) - padded
    cu_responses = np.concatenate([[0], np.cumsum(responses)])
    tokens = np.zeros(padded.sum(), np.int64)
    for start, sample in zip(starts, samples, strict=bool(samples)):
        tokens[start : start + len(sample.tokens)] = sample.tokens
    positions = np.arange(len(tokens)) - np.repeat(starts, padded)
    # Response token j of sample i is at starts[i] + T_i - R_i + j; the row before it predicts it.
    shift = starts[: len(samples)] + lengths - responses - cu_responses[:-1]
    rows = np.repeat(shift, responses) + np.arange(cu_responses[-1]) - 1
    targets = tokens[rows + 1]
    places: NDArray[np.int64] | None = None
    zigzag: ZigZag | None = None
    if split.size > 1:
        mine = _zigzag_tokens(starts, padded, split)
        local = np.full(len(tokens), -1)
        local[mine] = np.arange(len(mine))
        places = np.flatnonzero(local[rows] >= 0)
        tokens, positions, rows, targets = tokens[mine], positions[mine], local[rows[places]], targets[places]
        assert split.group is not None
        zigzag = ZigZag.of(padded.tolist(), split.rank, split.group, device)

    def to(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    in_sequence = to(positions)
    return MicroBatch(
        tokens=to(tokens)[None],
        positions=in_sequence[None],
        sequences=PackedSequences.of(padded.tolist(), device, zigzag, in_sequence),
        rows=to(rows),
        targets=to(targets),
        loss_mask=to(_joined([sample.loss_mask for sample in samples])),
        rollout_log_probs=to(_joined([sample.rollout_log_probs for sample in samples])),
        advantages=to(np.repeat(np.array([sample.advantage for sample in samples], np.float32), responses)),
        cu_responses=to(cu_responses),
        trajectory_tokens=to(np.array([sample.tokens_of_trajectory for sample in samples], np.float32)),
        trajectory_heads=to(np.array([sample.trajectory_head for sample in samples], np.float32)),
        places=None if places is None else to(places),
        num_tokens=int(lengths.sum()),
        num_squared_tokens=int((lengths**2).sum()),
        group=split.group if split.size > 1 else None,
    )


def _joined(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float32)


def _padded(lengths: NDArray[np.int64], split: TokenSplit) -> NDArray[np.int64]:
    """Padding follows a sample, where the causal mask hides it from every real token."""
    each = 2 * split.size if split.size > 1 else 1
    padded = -(-lengths // each) * each
    whole = np.lcm(each, split.size * split.multiple_of)
    padded[-1] += -padded.sum() % whole
    return padded


def _zigzag_tokens(starts: NDArray[np.int64], padded: NDArray[np.int64], split: TokenSplit) -> NDArray[np.int64]:
    """Which of the padded tokens are this rank's, sample by sample."""
    parts: list[NDArray[np.int64]] = []
    for start, length in zip(starts, padded, strict=True):
        chunk = length // (2 * split.size)
        for number in (split.rank, 2 * split.size - 1 - split.rank):
            parts.append(np.arange(start + number * chunk, start + (number + 1) * chunk))
    return np.concatenate(parts)
