"""One rollout's training: its optimizer steps, over this rank's micro-batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from trainers.megatron.loss import Loss, mean_over_steps
from trainers.megatron.packing import MicroBatch
from trainers.megatron.signals import Signals
from trainers.protocols import StepStats


@dataclass(frozen=True, slots=True)
class RolloutTrainer:
    """Everything that takes part in a step, on one rank."""

    module: nn.Module
    """Wrapped for data parallelism."""
    forward: Callable[[MicroBatch], Any]
    """What the loss takes of a micro-batch: the policy's log-probabilities and entropy, or a critic's values."""
    loss: Loss
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler
    global_batch_size: int
    data_parallel_group: dist.ProcessGroup

    def __call__(self, steps: Sequence[Sequence[MicroBatch]], signals: Sequence[Sequence[Signals]]) -> StepStats:
        """Train on one rollout: ``steps[s]`` are this rank's micro-batches of optimizer step s, ``signals[s]`` what is
        known of each."""
        done = [self._step(batches, known) for batches, known in zip(steps, signals, strict=True)]
        return StepStats(
            metrics=mean_over_steps(done, of_the_first=self.loss.of_the_first),
            losses=[each["loss"] for each in done],
            grad_norms=[each["grad_norm"] for each in done],
        )

    def compute(self, steps: Sequence[Sequence[MicroBatch]]) -> list[list[Tensor]]:
        """Log-probabilities or values of the responses of every micro-batch, [R] each, without gradient."""
        with torch.no_grad():
            found = [[self.forward(batch) for batch in batches] for batches in steps]
        return [[each[0] if isinstance(each, tuple) else each for each in batches] for batches in found]

    def _step(self, batches: Sequence[MicroBatch], signals: Sequence[Signals]) -> dict[str, float]:
        module = self.module
        module.train()
        zero_grad_buffer: Callable[[], None] = module.zero_grad_buffer  # pyright: ignore[reportAssignmentType]
        zero_grad_buffer()
        self.optimizer.zero_grad()
        pairs = iter(zip(batches, signals, strict=True))
        sums: list[dict[str, Tensor]] = get_forward_backward_func()(
            forward_step_func=self._forward,
            data_iterator=pairs,
            model=[module],
            num_microbatches=len(batches),
            seq_length=0,  # both unused without pipeline parallelism
            micro_batch_size=1,
            forward_only=False,
        )
        lr = self.optimizer.param_groups[0]["lr"]
        updated, grad_norm, _ = self.optimizer.step()  # pyright: ignore[reportGeneralTypeIssues]
        if updated:
            self.scheduler.step(increment=self.global_batch_size)
        total = torch.stack([each["sums"] for each in sums]).sum(0)
        dist.all_reduce(total, group=self.data_parallel_group)
        return self.loss.metrics(total.tolist()) | {"grad_norm": float(grad_norm), "lr": float(lr)}

    def _forward(
        self, pairs: Iterator[tuple[MicroBatch, Signals]], module: nn.Module
    ) -> tuple[Any, Callable[[Any], Any]]:
        batch, known = next(pairs)

        def loss_of(outputs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            loss, denominator, sums = self.loss(outputs, batch, known)
            return loss, denominator, {"sums": sums}

        return self.forward(batch), loss_of
