"""Log-probability and entropy per token, from logits that are split over tensor-parallel ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Float32 logits held at a time: 512 MiB, and as much again for their gradient.
CHUNK_ELEMENTS = 1 << 27


@dataclass(frozen=True, slots=True)
class VocabShard:
    """This rank's columns of the logits: vocabulary ids ``[start, start + width)``; those from ``vocab_size`` on are
    padding and have no probability."""

    start: int
    width: int
    vocab_size: int
    group: dist.ProcessGroup | None = None

    @property
    def real(self) -> int:
        return max(0, min(self.width, self.vocab_size - self.start))

    def reduce(self, tensor: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        if self.group is not None and self.group.size() > 1:
            dist.all_reduce(tensor, op, group=self.group)
        return tensor


def log_probs_of_hidden(
    hidden: Tensor,
    targets: Tensor,
    project: Callable[[Tensor], Tensor],
    shard: VocabShard,
    *,
    temperature: float,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Log-probability of ``targets`` and entropy of the distribution, both [R], float32.

    ``hidden`` is [R, H]; ``project`` gives [n, width] logits for [n, H] rows. Only ``chunk_elements`` logits exist at a
    time: with more than one chunk they are computed again in the backward pass.
    """
    rows = max(1, chunk_elements // shard.width)
    if len(targets) <= rows:
        return log_probs_of_logits(project(hidden), targets, shard, temperature=temperature)

    def chunk(hidden_chunk: Tensor, targets_chunk: Tensor) -> tuple[Tensor, Tensor]:
        return log_probs_of_logits(project(hidden_chunk), targets_chunk, shard, temperature=temperature)

    log_probs: list[Tensor] = []
    entropies: list[Tensor] = []
    for hidden_chunk, targets_chunk in zip(hidden.split(rows), targets.split(rows), strict=True):
        part: Any = checkpoint(chunk, hidden_chunk, targets_chunk, use_reentrant=False, preserve_rng_state=False)
        log_probs.append(part[0])
        entropies.append(part[1])
    return torch.cat(log_probs), torch.cat(entropies)


def log_probs_of_logits(
    logits: Tensor, targets: Tensor, shard: VocabShard, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """As :func:`log_probs_of_hidden`, from [R, width] logits of any float dtype."""
    return _LogProbs.apply(logits, targets, shard, temperature)


class _LogProbs(torch.autograd.Function):
    """With z the logits over the temperature, log Z = log Σ exp z, and p = exp(z − log Z)::

    log p_target = z_target − log Z        ∂/∂z_j = 1[j = target] − p_j
    H = log Z − Σ p z                      ∂/∂z_j = −p_j (log p_j + H)
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, shard: VocabShard, temperature: float
    ) -> tuple[Tensor, Tensor]:
        scaled = _scaled(logits, shard, temperature)
        empty = shard.real == 0
        peak = logits.new_full((len(logits),), -torch.inf, dtype=torch.float32) if empty else scaled.amax(-1)
        peak = shard.reduce(peak, dist.ReduceOp.MAX)
        exponentials = (scaled - peak[:, None]).exp_()
        local, here = _local(targets, shard)
        target = torch.zeros_like(peak) if empty else scaled.gather(1, local[:, None])[:, 0] * here
        sums = torch.stack([exponentials.sum(-1), (exponentials * scaled).sum(-1), target])
        total, weighted, target = shard.reduce(sums, dist.ReduceOp.SUM)
        log_z = total.log() + peak
        entropy = log_z - weighted / total
        ctx.save_for_backward(logits, targets, log_z, entropy)
        ctx.shard, ctx.temperature = shard, temperature
        return target - log_z, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        of_log_prob, of_entropy = gradients
        logits, targets, log_z, entropy = ctx.saved_tensors
        shard: VocabShard = ctx.shard
        gradient = torch.zeros_like(logits)
        if shard.real:
            log_p = _scaled(logits, shard, ctx.temperature) - log_z[:, None]
            p = log_p.exp()
            local, here = _local(targets, shard)
            d = log_p.add_(entropy[:, None]).mul_(-of_entropy[:, None]).sub_(of_log_prob[:, None]).mul_(p)
            d.scatter_add_(1, local[:, None], (of_log_prob * here)[:, None])
            gradient[:, : shard.real] = d / ctx.temperature
        return gradient, None, None, None


def _scaled(logits: Tensor, shard: VocabShard, temperature: float) -> Tensor:
    return logits[:, : shard.real].to(torch.float32) / temperature


def _local(targets: Tensor, shard: VocabShard) -> tuple[Tensor, Tensor]:
    """Column of each target on this rank (any, where it is another's), and whether it is here."""
    columns = targets - shard.start
    here = (columns >= 0) & (columns < shard.real)
    return torch.where(here, columns, 0), here
