"""From rewards to advantages."""

from typing import cast

import torch
from torch import Tensor

STD_EPSILON = 1e-6


def group_normalize(rewards: Tensor, group_ids: Tensor, *, normalize_std: bool) -> Tensor:
    """Each reward relative to its group: r − mean, and divided by (std + 1e-6) when ``normalize_std``.

    ``rewards`` and ``group_ids`` have shape [N]; groups may have any sizes and come in any order. The standard
    deviation is the unbiased one; a group of one, like a group of equal rewards, gets 0.
    GRPO: Shao et al. 2024 (arXiv:2402.03300), §4.1; without the division: Dr. GRPO (arXiv:2503.20783).
    """
    # In float64: otherwise the rounding of the mean, over a std of nearly 0, looks like an advantage.
    rewards_64 = rewards.to(torch.float64)
    # torch leaves the result of `unique` untyped.
    ids, group_of = cast("tuple[Tensor, Tensor]", torch.unique(group_ids, return_inverse=True))  # pyright: ignore[reportUnknownMemberType]
    zeros = torch.zeros(len(ids), dtype=torch.float64, device=rewards.device)
    counts = zeros.index_add(0, group_of, torch.ones_like(rewards_64))
    means = zeros.index_add(0, group_of, rewards_64) / counts
    centered = rewards_64 - means[group_of]
    if normalize_std:
        variances = zeros.index_add(0, group_of, centered.square()) / (counts - 1).clamp(min=1)
        centered = centered / (variances.sqrt()[group_of] + STD_EPSILON)
    return centered.to(rewards.dtype)
