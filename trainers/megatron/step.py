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

from trainers.megatron.loss import PolicyLoss, means_of
from trainers.megatron.model import Policy
from trainers.megatron.packing import MicroBatch
from trainers.protocols import StepStats


@dataclass(frozen=True, slots=True)
class RolloutTrainer:
    """Everything that takes part in a step, on one rank."""

    policy: Policy
    loss: PolicyLoss
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler
    global_batch_size: int
    data_parallel_group: dist.ProcessGroup

    def __call__(self, steps: Sequence[Sequence[MicroBatch]]) -> StepStats:
        """Train on one rollout: ``steps[s]`` are this rank's micro-batches of optimizer step s."""
        old: list[list[Tensor | None]] = [[None] * len(batches) for batches in steps]
        rollouts = self.loss.algorithm.use_rollout_log_probs
        if len(steps) > 1 and not rollouts:
            # From the second step on the policy is not the one whose log-probabilities are "old".
            with torch.no_grad():
                old = [[self.policy.log_probs(batch)[0] for batch in batches] for batches in steps]
        done = [self._step(batches, olds) for batches, olds in zip(steps, old, strict=True)]
        names = [name for name in done[0] if name not in ("tokens", "mask_tokens")]
        metrics = {name: sum(each[name] for each in done) / len(done) for name in names}
        metrics |= {name: sum(each[name] for each in done) for name in ("tokens", "mask_tokens")}
        if rollouts:  # later steps see a policy that the engine never had
            metrics["log_prob_diff"] = done[0]["log_prob_diff"]
        return StepStats(
            metrics=metrics,
            losses=[each["loss"] for each in done],
            grad_norms=[each["grad_norm"] for each in done],
        )

    def _step(self, batches: Sequence[MicroBatch], old: Sequence[Tensor | None]) -> dict[str, float]:
        module = self.policy.module
        module.train()
        zero_grad_buffer: Callable[[], None] = module.zero_grad_buffer  # pyright: ignore[reportAssignmentType]
        zero_grad_buffer()
        self.optimizer.zero_grad()
        pairs = iter(zip(batches, old, strict=True))
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
        return means_of(total.tolist()) | {"grad_norm": float(grad_norm), "lr": float(lr)}

    def _forward(
        self, pairs: Iterator[tuple[MicroBatch, Tensor | None]], module: nn.Module
    ) -> tuple[tuple[Tensor, Tensor], Callable[[Any], Any]]:
        batch, old = next(pairs)

        def loss_of(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            loss, denominator, sums = self.loss(*outputs, batch, old)
            return loss, denominator, {"sums": sums}

        return self.policy.log_probs(batch), loss_of
