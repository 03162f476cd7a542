"""What is optimised."""

from typing import Annotated, Literal

from pydantic import Field

from engines.config import Section


class GRPOConfig(Section):
    """Group-relative policy optimisation with the clipped loss; no reference model unless asked for."""

    name: Literal["grpo"] = "grpo"
    eps_clip: Annotated[float, Field(ge=0)] = 0.2
    eps_clip_high: Annotated[float, Field(ge=0)] | None = None
    eps_clip_c: Annotated[float, Field(gt=1)] | None = None
    """Dual clip: bounds the loss of a negative advantage at ``eps_clip_c`` times it."""
    normalize_std: bool = True
    entropy_coef: float = 0.0
    loss_aggregation: Literal["sample_mean", "token_mean"] = "sample_mean"
    """``sample_mean``: mean over samples of the mean over mask-1 tokens. ``token_mean``: over all of them."""
    use_rollout_log_probs: bool = False
    """Take the engine's log-probabilities as the old policy's, in place of the trainer's own."""

    @property
    def clip_high(self) -> float:
        return self.eps_clip if self.eps_clip_high is None else self.eps_clip_high


# With one algorithm so far a union of one; the others join it by their ``name``.
type AlgorithmConfig = GRPOConfig
