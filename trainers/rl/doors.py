"""What a loss or an advantage of the user's own is called with, and what it returns.

Values of tokens are packed as in :mod:`trainers.rl.reduce`: [T] over N responses; ``cu_lengths`` is [N + 1].
"""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One micro-batch of an optimizer step. ``log_probs`` and ``entropy`` carry the gradient."""

    log_probs: Tensor
    entropy: Tensor
    old_log_probs: Tensor
    rollout_log_probs: Tensor
    ref_log_probs: Tensor | None
    """Given when ``algorithm.kl`` is."""
    advantages: Tensor
    loss_mask: Tensor
    cu_lengths: Tensor


class CustomLoss(Protocol):
    """``algorithm.custom_loss``: the loss of every token, [T], in place of the policy loss. What is masked need not be
    finite. Entropy bonus, KL in the loss and aggregation are added as the job says."""

    def __call__(self, inputs: LossInputs, algorithm: Any) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class AdvantageInputs:
    """One micro-batch of a rollout, before its first optimizer step."""

    outcomes: Tensor
    """[N]: what the algorithm makes of the rewards, relative to the group where it is group-relative."""
    kl: Tensor | None
    """[T], the distance to the reference model; given when ``algorithm.kl.reward_coef`` is."""
    values: Tensor | None
    """[T], the critic's; given under PPO."""
    loss_mask: Tensor
    cu_lengths: Tensor


class CustomAdvantage(Protocol):
    """``algorithm.custom_advantage``: the advantage of every token, [T], in place of the algorithm's. Whitened
    afterwards when ``algorithm.normalize_advantages`` is set."""

    def __call__(self, inputs: AdvantageInputs, algorithm: Any) -> Tensor: ...
