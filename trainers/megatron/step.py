"""One rollout's training: its optimizer steps, over this rank's micro-batches, through Megatron's schedules."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from trainers.errors import TrainingDiverged
from trainers.megatron.heads import Head, run_model
from trainers.megatron.hooks import MegatronHooks
from trainers.megatron.loss import Loss, mean_over_steps
from trainers.megatron.packing import MicroBatch
from trainers.megatron.signals import Signals
from trainers.megatron.timing import Timing
from trainers.megatron.world import Groups
from trainers.protocols import StepStats


@dataclass(frozen=True, slots=True)
class RolloutTrainer:
    """Everything that takes part in a step, on one rank."""

    modules: list[nn.Module]
    """This rank's chunks of the model, each wrapped for data parallelism: one, or its virtual pipeline stages."""
    head: Head
    """What is taken of a micro-batch: the policy's log-probabilities and entropy, or a critic's values."""
    loss: Loss
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler
    global_batch_size: int
    groups: Groups
    timing: Timing
    hooks: MegatronHooks | None = None
    """The user's own functions beside the policy's passes and steps."""
    loss_head: Head | None = None
    """What the loss takes, where that is something else."""

    def __call__(self, steps: Sequence[Sequence[MicroBatch]], signals: Sequence[Sequence[Signals]]) -> StepStats:
        """Train on one rollout: ``steps[s]`` are this rank's micro-batches of optimizer step s, ``signals[s]`` what is
        known of each. Raises TrainingDiverged on all ranks for a loss or gradient that is not finite."""
        done = [self._step(batches, known) for batches, known in zip(steps, signals, strict=True)]
        return StepStats(
            metrics=mean_over_steps(done, of_the_first=self.loss.of_the_first),
            losses=[each["loss"] for each in done],
            grad_norms=[each["grad_norm"] for each in done],
        )

    def compute(self, steps: Sequence[Sequence[MicroBatch]]) -> list[list[Tensor]]:
        """Log-probabilities or values of the responses of every micro-batch, [R] each, without gradient, on all
        ranks."""
        with torch.no_grad(), self.timing("log_probs"):
            if self.hooks is not None:
                self.hooks.before_log_prob(self.modules)
            return [self._compute(batches) for batches in steps]

    def _compute(self, batches: Sequence[MicroBatch]) -> list[Tensor]:
        def forward(numbered: Iterator[tuple[int, MicroBatch]], module: nn.Module) -> tuple[Any, Callable[..., Any]]:
            number, batch = next(numbered)

            def keep(outputs: Tensor, non_loss_data: bool = False) -> tuple[int, Tensor]:
                return number, outputs

            outputs = run_model(module, batch, self.head)
            return outputs[0] if isinstance(outputs, tuple) else outputs, keep

        found: dict[int, Tensor] = dict(self._schedule(forward, enumerate(batches), len(batches), forward_only=True))
        if self.groups.pipeline.size() > 1:
            for number, batch in enumerate(batches):
                values = found.setdefault(number, torch.empty_like(batch.loss_mask))
                dist.broadcast(values, group=self.groups.pipeline, group_src=self.groups.pipeline.size() - 1)
        return [found[number] for number in range(len(batches))]

    def _step(self, batches: Sequence[MicroBatch], signals: Sequence[Signals]) -> dict[str, float]:
        with self.timing("forward_backward"):
            for module in self.modules:
                module.train()
                zero_grad_buffer: Callable[[], None] = module.zero_grad_buffer  # pyright: ignore[reportAssignmentType]
                zero_grad_buffer()
            self.optimizer.zero_grad()
            if self.hooks is not None:
                self.hooks.before_train_step(self.modules, self.optimizer, self.scheduler)
            pairs = zip(batches, signals, strict=True)
            sums = self._schedule(self._forward, pairs, len(batches), forward_only=False)
            total = self._total(sums, batches[0].loss_mask.device)
        lr = self.optimizer.param_groups[0]["lr"]
        with self.timing("optimizer"):
            updated, norm, _ = self.optimizer.step()  # pyright: ignore[reportGeneralTypeIssues]
        # Asked for last, as a GPU would stand still between the two parts until the answer had come.
        metrics, grad_norm = self.loss.metrics(total.tolist()), float(norm)
        if not math.isfinite(metrics["loss"]):
            raise TrainingDiverged(f"the loss is {metrics['loss']} at a learning rate of {lr}: {_DIVERGED}")
        if not math.isfinite(grad_norm):
            raise TrainingDiverged(f"the gradient's norm is {grad_norm} at a loss of {metrics['loss']}: {_DIVERGED}")
        if updated:
            self.scheduler.step(increment=self.global_batch_size)
        return metrics | {"grad_norm": grad_norm, "lr": float(lr)}

    def _total(self, sums: Sequence[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Over micro-batches and replicas; the last pipeline stage tells the others."""
        pipeline = self.groups.pipeline
        if sums:
            total = torch.stack([each["sums"] for each in sums]).sum(0)
            dist.all_reduce(total, group=self.groups.data_parallel)
        else:
            total = torch.zeros(len(self.loss.names), dtype=torch.float64, device=device)
        if pipeline.size() > 1:
            dist.broadcast(total, group=pipeline, group_src=pipeline.size() - 1)
        return total

    def _forward(
        self, pairs: Iterator[tuple[MicroBatch, Signals]], module: nn.Module
    ) -> tuple[Any, Callable[[Any], Any]]:
        batch, known = next(pairs)

        def loss_of(outputs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            loss, denominator, sums = self.loss(outputs, batch, known)
            # All context-parallel ranks have the whole loss; Megatron sums denominators over them too.
            if batch.group is not None and batch.group.rank() > 0:
                denominator = torch.zeros_like(denominator)
            return loss, denominator, {"sums": sums}

        return run_model(module, batch, self.loss_head or self.head), loss_of

    def _schedule(self, forward: Callable[..., Any], data: Any, count: int, *, forward_only: bool) -> list[Any]:
        """What the last stage returned of each micro-batch; empty on the other stages."""
        each_time = list(data)
        return get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=[iter(each_time) for _ in self.modules],
            model=self.modules,
            num_microbatches=count,
            seq_length=1,  # shapes travel with the tensors
            micro_batch_size=1,
            forward_only=forward_only,
            collect_non_loss_data=forward_only,
        )


_DIVERGED = (
    "training has diverged; lower trainer.lr, set trainer.clip_grad, or begin again from an earlier checkpoint with "
    "other settings"
)
