"""How far two policies are apart, estimated from the tokens that one of them sampled."""

from typing import Literal

import torch
from torch import Tensor

type KLEstimator = Literal["k1", "kl", "k2", "k3", "low_var_kl"]

LOW_VAR_BOUND = 10.0


def kl_estimate(
    log_p: Tensor, log_q: Tensor, *, estimator: KLEstimator, importance_log_ratio: Tensor | None = None
) -> Tensor:
    """Per-token estimate of KL(p ‖ q) from tokens sampled by p; all tensors have the same shape.

    With Δ = log_p − log_q: k1 (or kl) = Δ (unbiased, may be negative), k2 = Δ²/2 (biased, never negative),
    k3 = exp(−Δ) − 1 + Δ (unbiased, never negative), low_var_kl = k3 clamped to ±10. Schulman 2020,
    http://joschu.net/blog/kl-approx.html.

    With ``importance_log_ratio`` = log p − log of the policy that did sample, the estimate is multiplied by its
    exponential, before the clamp: then it and its gradient are unbiased for tokens of that policy (DeepSeek-V3.2,
    arXiv:2512.02556, §3.1).
    """
    delta = log_p - log_q
    match estimator:
        case "k1" | "kl":
            estimate = delta
        case "k2":
            estimate = delta.square() / 2
        case "k3" | "low_var_kl":
            estimate = torch.expm1(-delta) + delta
    if importance_log_ratio is not None:
        estimate = importance_log_ratio.exp() * estimate
    return estimate.clamp(-LOW_VAR_BOUND, LOW_VAR_BOUND) if estimator == "low_var_kl" else estimate
