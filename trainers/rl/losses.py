"""The policy-gradient surrogate, token by token."""

import torch
from torch import Tensor


def clipped_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    eps_clip: float,
    eps_clip_high: float,
    eps_clip_c: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss of each token, and whether the clip decided it (1.0 or 0.0, without gradient).

    With ρ = exp(log_probs − old_log_probs)::

        L = max(−ρ·A, −clip(ρ, 1 − eps_clip, 1 + eps_clip_high)·A)
        L = min(L, −eps_clip_c·A)    where A < 0 and eps_clip_c is given

    All tensors have the same shape. Schulman et al. 2017 (arXiv:1707.06347), eq. 7; a higher upper bound is
    "clip-higher" of DAPO (arXiv:2503.14476); the third bound is dual clip (Ye et al. 2020, arXiv:1912.09729).
    """
    ratio = torch.exp(log_probs - old_log_probs)
    unclipped = -ratio * advantages
    clipped = -ratio.clamp(1.0 - eps_clip, 1.0 + eps_clip_high) * advantages
    loss = torch.maximum(unclipped, clipped)
    indicator = (clipped > unclipped).to(loss.dtype)
    if eps_clip_c is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -eps_clip_c * advantages), loss)
    return loss, indicator
