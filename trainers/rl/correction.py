"""What to do about samples that another policy drew than the one that the loss takes for the old one.

None of these carries a gradient.
"""

import torch
from torch import Tensor

from trainers.rl.reduce import sample_means, sample_of_token


def truncated_weights(
    old_log_probs: Tensor, rollout_log_probs: Tensor, *, clip_low: float, clip: float
) -> tuple[Tensor, Tensor]:
    """Weight of each token, clamp(w, clip_low, clip) with w = exp(old − rollout), and whether w was outside.

    The rollout's log-probabilities are the engine's, the old ones the trainer's for the same weights. All tensors have
    the same shape. Truncated importance sampling: Ionides 2008; for this mismatch: Yao et al. 2025, "Your efficient RL
    framework secretly brings you off-policy RL training".
    """
    weights = torch.exp(old_log_probs - rollout_log_probs).detach()
    bounded = weights.clamp(clip_low, clip)
    return bounded, (bounded != weights).to(weights.dtype)


def masked_weights(
    old_log_probs: Tensor, rollout_log_probs: Tensor, *, clip_low: float, clip: float
) -> tuple[Tensor, Tensor]:
    """As :func:`truncated_weights`, with weight 0 where w is outside of [clip_low, clip].

    IcePop: Ling team 2025, "Every step evolves" (arXiv:2510.18855).
    """
    weights = torch.exp(old_log_probs - rollout_log_probs).detach()
    outside = (weights < clip_low) | (weights > clip)
    return torch.where(outside, 0.0, weights), outside.to(weights.dtype)


def off_policy_sequences(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, cu_lengths: Tensor, *, delta: float
) -> Tensor:
    """1.0 on the tokens that off-policy sequence masking takes out: A < 0 in a sample whose mean of old − new over its
    mask-1 tokens exceeds ``delta``.

    All but ``cu_lengths`` ([N + 1]) have shape [T]. DeepSeek-V3.2 (arXiv:2512.02556), §3.1.
    """
    drift = sample_means((old_log_probs - log_probs).detach(), mask, cu_lengths)
    out = (advantages < 0) & (drift > delta)[sample_of_token(cu_lengths)]
    return out.to(log_probs.dtype)
