"""What is known of a micro-batch before the first optimizer step of its rollout."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Signals:
    """All of shape [R], float32, without gradient; None where the algorithm does not ask for it."""

    advantages: Tensor
    old_log_probs: Tensor | None = None
    """None: those of the step itself, so that the ratio is 1."""
    ref_log_probs: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None
