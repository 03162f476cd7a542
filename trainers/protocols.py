"""What the loop asks of its parts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One sample, ready for the loss. T tokens in all, the last R of them the response."""

    tokens: NDArray[np.int32]  # [T]
    loss_mask: NDArray[np.float32]  # [R], 1 trains
    rollout_log_probs: NDArray[np.float32]  # [R]
    advantage: float
    """The outcome, relative to its group where the algorithm is: the advantage of every response token, or that from
    which the advantages of the tokens are made."""
    trajectory_tokens: float | None = None
    """Mask-1 tokens of all samples of its trajectory in its optimizer step; None: it is alone."""
    trajectory_head: bool = True
    """Whether it is the sample by which its trajectory is counted in its optimizer step."""

    @property
    def response_length(self) -> int:
        return len(self.loss_mask)

    @property
    def tokens_of_trajectory(self) -> float:
        return float(self.loss_mask.sum()) if self.trajectory_tokens is None else self.trajectory_tokens


@dataclass(frozen=True, slots=True)
class MicroBatchPlan:
    """Which samples (by position in the rollout) form which micro-batch. ``steps[s][d]`` is the list of
    micro-batches of data-parallel rank d in optimizer step s; every d has the same number of them."""

    steps: list[list[list[list[int]]]]


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """All samples of one rollout and how they are split into optimizer steps, ranks and micro-batches."""

    rollout_id: int
    samples: list[TrainSample]
    plan: MicroBatchPlan
    weight_version: int = 0
    """The newest that sampled any of its tokens."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """One rollout's training. Means over its optimizer steps; the lists have one entry per optimizer step."""

    metrics: dict[str, float]
    """loss, pg_loss, entropy, grad_norm, lr, clip_fraction, ppo_kl, log_prob_diff (mean |trainer − engine|), …"""
    losses: list[float] = field(default_factory=list[float])
    grad_norms: list[float] = field(default_factory=list[float])
    times: dict[str, float] = field(default_factory=dict[str, float], compare=False)
    """``time/<part>_s``, ``perf/tokens_per_s`` and, where the device's peak is known, ``perf/mfu``."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What a trainer came up with."""

    next_rollout_id: int
    """0, or one more than the rollout of the checkpoint that was loaded."""
    extra_state: dict[str, Any] | None
    """What :meth:`Trainer.save` was given with that checkpoint."""
    num_parameters: int
    loaded_from: str
    resumed: bool = False
    """From a checkpoint of this very run."""
    notices: tuple[str, ...] = ()
    """What the user should know of options that were given and have no effect."""


class Trainer(Protocol):
    """The policy under training, on however many ranks."""

    async def start(self) -> TrainerState: ...

    async def step(self, batch: TrainBatch) -> StepStats: ...

    async def save(self, rollout_id: int, directory: Path, extra_state: dict[str, Any]) -> Path:
        """Write ``directory/iter_{rollout_id:07d}`` and the tracker; ``extra_state`` is JSON and comes back on load.

        Under ``checkpoint.async_save`` the state is copied on return, and written while training goes on: the
        checkpoint is in force, and the next may be saved, once :meth:`save_settled` says so."""
        ...

    async def save_settled(self) -> bool:
        """Whether no checkpoint is being written. Does not wait for one that is."""
        ...

    async def export_hf(self, directory: Path) -> Path: ...

    async def close(self) -> None: ...
