"""From per-token values to sums that add up over micro-batches and data-parallel ranks.

Nothing here divides by a batch's size: the caller sums the results of all micro-batches and ranks of an
optimizer step and divides once, by the step's number of samples or of mask-1 tokens. How samples are
packed and spread then cannot change the loss.

``values`` and ``mask`` (1 counts) have shape [T]: the responses of N samples, one after the other. Sample i is
``values[cu_lengths[i]:cu_lengths[i + 1]]``; ``cu_lengths`` has shape [N + 1], from 0 to T.
"""

import torch
from torch import Tensor


def sample_of_token(cu_lengths: Tensor) -> Tensor:
    """The number of the sample that each token belongs to, [T]."""
    lengths = cu_lengths.diff().to(torch.int64)
    return torch.repeat_interleave(torch.arange(len(lengths), device=cu_lengths.device), lengths)


def sum_of_sample_means(values: Tensor, mask: Tensor, cu_lengths: Tensor) -> Tensor:
    """Σ over samples of (Σ value·mask / max(Σ mask, 1)); shape [].

    A sample without a mask-1 token adds 0. GRPO's aggregation, 1/G Σᵢ 1/|oᵢ| Σₜ (arXiv:2402.03300, eq. 3).
    """
    sample_of = sample_of_token(cu_lengths)
    weights = mask.to(values.dtype)
    counts = values.new_zeros(len(cu_lengths) - 1).index_add(0, sample_of, weights)
    return masked_sum(values, weights / counts.clamp(min=1)[sample_of])


def sum_of_weighted_samples(values: Tensor, mask: Tensor, cu_lengths: Tensor, divisors: Tensor) -> Tensor:
    """Σ over samples of (Σ value·mask / max(divisor, 1)); shape []. ``divisors`` has shape [N].

    With the mask-1 tokens of a sample's whole trajectory as its divisor, the samples of one trajectory together weigh
    as much as a trajectory of one sample.
    """
    weights = mask.to(values.dtype)
    return masked_sum(values, weights / divisors.to(values.dtype).clamp(min=1)[sample_of_token(cu_lengths)])


def sample_sums(values: Tensor, mask: Tensor, cu_lengths: Tensor) -> Tensor:
    """Σ value·mask of each sample, [N]; 0 for a sample without a mask-1 token."""
    weights = mask.to(values.dtype)
    kept = torch.where(weights != 0, values, 0.0) * weights
    return values.new_zeros(len(cu_lengths) - 1).index_add(0, sample_of_token(cu_lengths), kept)


def sample_means(values: Tensor, mask: Tensor, cu_lengths: Tensor) -> Tensor:
    """Σ value·mask / max(Σ mask, 1) of each sample, [N]."""
    counts = sample_sums(torch.ones_like(values), mask, cu_lengths)
    return sample_sums(values, mask, cu_lengths) / counts.clamp(min=1)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Σ value·mask; shape []. ``values`` and ``mask`` have the same shape. A value under mask 0, even one
    that is not finite, adds nothing."""
    weights = mask.to(values.dtype)
    return (torch.where(weights != 0, values, 0.0) * weights).sum()
