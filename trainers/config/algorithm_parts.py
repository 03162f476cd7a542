"""The parts that algorithms share."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from engines.config import Positive, Section

type Fraction = Annotated[float, Field(ge=0)]
type Coefficient = Annotated[float, Field(ge=0)]

type LossAggregation = Literal["sample_mean", "rollout_mean", "token_mean", "constant"]
"""How per-token losses become one number.

``sample_mean``: mean over samples of the mean over their mask-1 tokens. ``rollout_mean``: the same, with all samples of
one trajectory taken as one. ``token_mean``: mean over all mask-1 tokens of a step. ``constant``: mean over samples of
the sum over their mask-1 tokens, divided by ``loss_divisor``.
"""


class KLConfig(Section):
    """The distance to the reference model: part of the loss (``loss_coef``) or of each token's reward
    (``reward_coef``), not of both."""

    estimator: Literal["k1", "kl", "k2", "k3", "low_var_kl"] = "k1"
    """``kl`` is another name of ``k1``; ``low_var_kl`` is ``k3`` clamped to ±10."""
    loss_coef: Coefficient | None = None
    """0 adds nothing to the loss, and charts the distance."""
    reward_coef: Annotated[float, Field(gt=0)] | None = None
    use_unbiased: bool = False
    """Weigh the estimate in the loss by π/π_old: its gradient is then the divergence's own."""
    ref_update_interval: Positive | None = None
    """Make the policy the reference after every this many rollouts."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.loss_coef is None) == (self.reward_coef is None):
            raise ValueError("kl takes exactly one of loss_coef (in the loss) and reward_coef (in the reward)")
        if self.use_unbiased and self.loss_coef is None:
            raise ValueError("kl.use_unbiased weighs the estimate in the loss: it needs kl.loss_coef")
        return self


class CorrectionConfig(Section):
    """Importance weights for what the engine's log-probabilities and the trainer's differ by."""

    method: Literal["tis", "mis"] = "tis"
    """``tis`` bounds a token's weight to [clip_low, clip]; ``mis`` (icepop) drops a token outside of it."""
    clip: Annotated[float, Field(gt=0)] = 2.0
    clip_low: Fraction = 0.0

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.clip_low >= self.clip:
            raise ValueError(f"correction.clip_low ({self.clip_low}) must be below correction.clip ({self.clip})")
        return self


class OPSMConfig(Section):
    """Off-policy sequence masking: a sample with a negative advantage that drifted too far teaches nothing."""

    delta: Fraction = 1e-4
    """Mean log-ratio old − new over its mask-1 tokens from which on a sample is masked."""


class CriticConfig(Section):
    """The value model: the policy's architecture and first weights with a head of one output."""

    lr: Annotated[float, Field(gt=0)] | None = None
    """Unset: ``trainer.lr``. Schedule and decay are the policy's."""
    num_critic_only_steps: Annotated[int, Field(ge=0)] = 0
    """Rollouts at the start in which the critic alone is trained."""
