"""From per-token values to sums that add up over micro-batches and data-parallel ranks.

Nothing here divides by a batch's size: the caller sums the results of all micro-batches and ranks of an
optimizer step and divides once, by the step's number of samples or of mask-1 tokens. How samples are
packed and spread then cannot change the loss.
"""

import torch
from torch import Tensor


def sum_of_sample_means(values: Tensor, mask: Tensor, cu_lengths: Tensor) -> Tensor:
    """Σ over samples of (Σ value·mask / max(Σ mask, 1)); shape [].

    ``values`` and ``mask`` (1 counts) have shape [T]: the responses of N samples, one after the other.
    Sample i is ``values[cu_lengths[i]:cu_lengths[i + 1]]``; ``cu_lengths`` has shape [N + 1], from 0 to T.
    A sample without a mask-1 token adds 0. GRPO's aggregation, 1/G Σᵢ 1/|oᵢ| Σₜ (arXiv:2402.03300, eq. 3).
    """
    lengths = cu_lengths.diff().to(torch.int64)
    sample_of = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
    weights = mask.to(values.dtype)
    counts = values.new_zeros(len(lengths)).index_add(0, sample_of, weights)
    return masked_sum(values, weights / counts.clamp(min=1)[sample_of])


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Σ value·mask; shape []. ``values`` and ``mask`` have the same shape. A value under mask 0, even one
    that is not finite, adds nothing."""
    weights = mask.to(values.dtype)
    return (torch.where(weights != 0, values, 0.0) * weights).sum()
