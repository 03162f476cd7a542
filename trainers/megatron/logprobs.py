"""Log-probability and entropy per token, from logits that are split over tensor-parallel ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainers.megatron.softmax import gradient_of_logits, on, statistics

# Logits held at a time: 512 MiB in bfloat16, and as much again for their gradient. Where nothing is compiled the
# passes hold several float32 copies.
CHUNK_ELEMENTS = {"cuda": 1 << 28, "cpu": 1 << 27}


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
    chunk_elements: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of ``targets`` and entropy of the distribution, both [R], float32.

    ``hidden`` is [R, H]; ``project`` gives [n, width] logits for [n, H] rows. Only ``chunk_elements`` logits exist at a
    time: with more than one chunk they are computed again in the backward pass.
    """
    rows = max(1, (chunk_elements or CHUNK_ELEMENTS[hidden.device.type]) // shard.width)
    if len(targets) <= rows:
        return log_probs_of_logits(project(hidden), targets, shard, temperature=temperature)

    def chunk(hidden_chunk: Tensor, targets_chunk: Tensor, known: list[_Known]) -> tuple[Tensor, Tensor]:
        return _LogProbs.apply(project(hidden_chunk), targets_chunk, shard, temperature, known)

    log_probs: list[Tensor] = []
    entropies: list[Tensor] = []
    for hidden_chunk, targets_chunk in zip(hidden.split(rows), targets.split(rows), strict=True):
        part: Any = checkpoint(chunk, hidden_chunk, targets_chunk, [], use_reentrant=False, preserve_rng_state=False)
        log_probs.append(part[0])
        entropies.append(part[1])
    return torch.cat(log_probs), torch.cat(entropies)


def log_probs_of_logits(
    logits: Tensor, targets: Tensor, shard: VocabShard, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """As :func:`log_probs_of_hidden`, from [R, width] logits of any float dtype."""
    return _LogProbs.apply(logits, targets, shard, temperature, [])


type _Known = tuple[Tensor, Tensor, Tensor]
"""Log-probability, entropy and log Z of a chunk, [n] each."""


class _LogProbs(torch.autograd.Function):
    """With z the logits over the temperature, log Z = log Σ exp z, and p = exp(z − log Z)::

    log p_target = z_target − log Z        ∂/∂z_j = 1[j = target] − p_j
    H = log Z − Σ p z                      ∂/∂z_j = −p_j (log p_j + H)
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, shard: VocabShard, temperature: float, known: list[_Known]
    ) -> tuple[Tensor, Tensor]:
        if not known:  # the second time only the logits are wanted, for the backward pass
            known.append(_evaluate(logits, targets, shard, temperature))
        log_prob, entropy, log_z = known[0]
        ctx.save_for_backward(logits, targets, log_z, entropy)
        ctx.shard, ctx.temperature = shard, temperature
        return log_prob.clone(), entropy.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        of_log_prob, of_entropy = gradients
        logits, targets, log_z, entropy = ctx.saved_tensors
        shard: VocabShard = ctx.shard
        if not shard.real:
            return torch.zeros_like(logits), None, None, None, None
        local, here = _local(targets, shard)
        gradient = on(logits.device, gradient_of_logits)(
            logits, shard.real, ctx.temperature, local, here, log_z, entropy, of_log_prob, of_entropy
        )
        padding = shard.width - shard.real
        return F.pad(gradient, (0, padding)) if padding else gradient, None, None, None, None


def _evaluate(logits: Tensor, targets: Tensor, shard: VocabShard, temperature: float) -> _Known:
    if shard.real:
        own_peak, *own_sums = on(logits.device, statistics)(logits, shard.real, temperature)
        local, here = _local(targets, shard)
        target = logits.gather(1, local[:, None])[:, 0].to(torch.float32) / temperature * here
    else:
        own_peak = logits.new_full((len(logits),), -torch.inf, dtype=torch.float32)
        own_sums, target = [torch.zeros_like(own_peak)] * 2, torch.zeros_like(own_peak)
    peak = shard.reduce(own_peak.clone(), dist.ReduceOp.MAX)
    scale = (own_peak - peak).exp()
    sums = torch.stack([own_sums[0] * scale, own_sums[1] * scale, target])
    total, weighted, target = shard.reduce(sums, dist.ReduceOp.SUM)
    log_z = total.log() + peak
    return target - log_z, log_z - weighted / total, log_z


def _local(targets: Tensor, shard: VocabShard) -> tuple[Tensor, Tensor]:
    """Column of each target on this rank (any, where it is another's), and whether it is here."""
    columns = targets - shard.start
    here = (columns >= 0) & (columns < shard.real)
    return torch.where(here, columns, 0), here
