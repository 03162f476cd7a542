"""The losses, token by token; DPO's, pair by pair."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.rl.reduce import sample_means, sample_of_token


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
    return clipped_ratio_loss(
        log_probs - old_log_probs,
        advantages,
        eps_clip=eps_clip,
        eps_clip_high=eps_clip_high,
        eps_clip_c=eps_clip_c,
    )


def clipped_ratio_loss(
    log_ratio: Tensor, advantages: Tensor, *, eps_clip: float, eps_clip_high: float, eps_clip_c: float | None = None
) -> tuple[Tensor, Tensor]:
    """As :func:`clipped_policy_loss`, with ρ = exp(log_ratio)."""
    ratio = torch.exp(log_ratio)
    unclipped = -ratio * advantages
    clipped = -ratio.clamp(1.0 - eps_clip, 1.0 + eps_clip_high) * advantages
    loss = torch.maximum(unclipped, clipped)
    indicator = (clipped > unclipped).to(loss.dtype)
    if eps_clip_c is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -eps_clip_c * advantages), loss)
    return loss, indicator


def sequence_log_ratio(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, cu_lengths: Tensor) -> Tensor:
    """GSPO's log-ratio of a sample, on each of its tokens: Σ (log_probs − old_log_probs)·mask / max(Σ mask, 1).

    All but ``cu_lengths`` ([N + 1]) have shape [T]. Zheng et al. 2025 (arXiv:2507.18071), eq. 7.
    """
    return sample_means(log_probs - old_log_probs, mask, cu_lengths)[sample_of_token(cu_lengths)]


def cispo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, eps_clip: float, eps_clip_high: float
) -> tuple[Tensor, Tensor]:
    """−sg(clip(ρ, 1 − eps_clip, 1 + eps_clip_high))·A·log_probs, and whether ρ was outside (1.0 or 0.0).

    ρ = exp(log_probs − old_log_probs) carries no gradient, so every token keeps its own. All tensors have the same
    shape. MiniMax 2025 (arXiv:2506.13585), §3.1.
    """
    ratio = torch.exp(log_probs - old_log_probs).detach()
    weight = ratio.clamp(1.0 - eps_clip, 1.0 + eps_clip_high)
    return -weight * advantages * log_probs, (weight != ratio).to(log_probs.dtype)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, value_clip: float) -> tuple[Tensor, Tensor]:
    """max((V − R)², (V_old + clip(V − V_old, ±value_clip) − R)²), without ½, and whether the clip decided it.

    All tensors have the same shape. Schulman's PPO2 baseline; Engstrom et al. 2020 (arXiv:2005.12729), §3.
    """
    bounded = old_values + (values - old_values).clamp(-value_clip, value_clip)
    plain, clipped = (values - returns).square(), (bounded - returns).square()
    return torch.maximum(plain, clipped), (clipped > plain).to(values.dtype)


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """DPO's loss of each pair, and its margin z, from the log-probabilities of whole responses, all [P].

    z = β·((chosen − ref_chosen) − (rejected − ref_rejected)); L = −(1 − ε)·log σ(z) − ε·log σ(−z) with ε the
    probability that the labels are the wrong way round. Rafailov et al. 2023 (arXiv:2305.18290), eq. 7; ε:
    Mitchell 2023, https://ericmitchell.ai/cdpo.pdf.
    """
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    loss = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    return loss, margin
