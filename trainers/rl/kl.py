"""How far two policies are apart, estimated from the tokens that one of them sampled."""

from typing import Literal

import torch
from torch import Tensor

type KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(log_p: Tensor, log_q: Tensor, *, estimator: KLEstimator) -> Tensor:
    """Per-token estimate of KL(p ‖ q) from tokens sampled by p; all tensors have the same shape.

    With Δ = log_p − log_q: k1 = Δ (unbiased, may be negative), k2 = Δ²/2 (biased, never negative),
    k3 = exp(−Δ) − 1 + Δ (unbiased, never negative). Schulman 2020, http://joschu.net/blog/kl-approx.html.
    """
    delta = log_p - log_q
    match estimator:
        case "k1":
            return delta
        case "k2":
            return delta.square() / 2
        case "k3":
            return torch.expm1(-delta) + delta
