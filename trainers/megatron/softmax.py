"""The passes over logits, which are the largest tensors of a step: on a GPU each is compiled into one kernel, so that a
logit is read and written once per pass and never held in float32."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def statistics(logits: Tensor, real: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the first ``real`` columns of [R, V] logits, with z the logits over the temperature: max z, Σ exp(z − max z)
    and Σ exp(z − max z)·z; [R] each, float32."""
    scaled = logits[:, :real].to(torch.float32) / temperature
    peak = scaled.amax(-1)
    exponentials = (scaled - peak[:, None]).exp()
    return peak, exponentials.sum(-1), (exponentials * scaled).sum(-1)


def gradient_of_logits(
    logits: Tensor,
    real: int,
    temperature: float,
    columns: Tensor,
    here: Tensor,
    log_z: Tensor,
    entropy: Tensor,
    of_log_prob: Tensor,
    of_entropy: Tensor,
) -> Tensor:
    """What the gradients of log-probability and entropy, [R] each, mean for the first ``real`` columns of the logits.
    ``columns`` and ``here``, [R]: the target's column, where it is one of these."""
    log_p = logits[:, :real].to(torch.float32) / temperature - log_z[:, None]
    of_each = -of_entropy[:, None] * (log_p + entropy[:, None]) - of_log_prob[:, None]
    is_target = (torch.arange(real, device=logits.device) == columns[:, None]) & here[:, None]
    whole = log_p.exp() * of_each + torch.where(is_target, of_log_prob[:, None], 0.0)
    return (whole / temperature).to(logits.dtype)


def on[**P, R](device: torch.device, function: Callable[P, R]) -> Callable[P, R]:
    """``function`` as it is best run there: compiled on a GPU, as it stands elsewhere (a CPU would take a minute)."""
    return _compiled(function) if device.type == "cuda" else function


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # For any number of rows, which the second one tells the compiler. Vocabulary and temperature stay constants of the
    # kernel: as variables they cost every logit divisions that take longer than reading it does.
    return torch.compile(function)
