"""How many samples, how they are drawn, and how long that may take."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from engines.config import Positive, SamplingConfig, Seconds, Section
from trainers.config.reward import ExactMatchRewardConfig, RewardConfig

SHIPPED_FILTERS = ("any_reward", "reward_nonzero_std")


class RolloutConfig(Section):
    num_rollouts: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """0: nothing is trained; ``eval.sets`` are evaluated once, with the weights that the run begins with. None: as many
    as ``num_epochs`` needs."""
    num_epochs: Positive | None = None
    """In place of ``num_rollouts``: as often as the prompts go into whole rollouts, so many times over."""
    rollout_batch_size: Positive
    """Prompts per rollout."""
    n_samples_per_prompt: Positive = 8
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig = ExactMatchRewardConfig()
    timeout_s: Seconds = 1800.0
    """For one rollout, generation and rewards together."""
    sample_timeout_s: Seconds | None = None
    """For generating one sample to train on, its tools and turns included, but not what a request waits for its turn
    (``engine.max_concurrency``); one that takes longer is ``failed`` and has no part in the training. Unset, only
    ``timeout_s`` and ``engine.request_timeout_s`` hold, which fail the rollout."""
    over_sampling_batch_size: Positive | None = None
    """Prompts that are started at a time; unset, ``rollout_batch_size``. What is left over once enough groups are
    ready is aborted."""
    dynamic_sampling_filter: str | None = None
    """Which finished groups are kept: a shipped filter by name, or ``package.module:function``. Dropped ones are
    made up for by further prompts."""
    partial_rollout: bool = False
    """Aborted samples keep their tokens and go on in a later rollout; otherwise their prompts begin anew."""
    mask_offpolicy_in_partial_rollout: bool = False
    """Train on the tokens of the current weight version alone."""
    max_staleness: Annotated[int, Field(ge=0)] | None = None
    """With ``partial_rollout``: a sample whose oldest token is more weight versions old than this begins anew."""

    @property
    def prompts_at_a_time(self) -> int:
        return self.over_sampling_batch_size or self.rollout_batch_size

    def counted(self, num_prompts: int) -> "RolloutConfig":
        """With ``num_rollouts``, once it is known how many prompts an epoch has. Raises ValueError where they are not
        enough for one rollout."""
        if self.num_epochs is None:
            return self
        per_epoch = num_prompts // self.rollout_batch_size
        if not per_epoch:
            raise ValueError(
                f"rollout.num_epochs: {num_prompts} prompts do not fill one rollout of rollout.rollout_batch_size = "
                f"{self.rollout_batch_size}: give rollout.num_rollouts instead, or a smaller batch"
            )
        return self.model_copy(update={"num_rollouts": per_epoch * self.num_epochs, "num_epochs": None})

    @model_validator(mode="after")
    def _one_says_how_many(self) -> Self:
        if (self.num_rollouts is None) == (self.num_epochs is None):
            raise ValueError("give either num_rollouts or num_epochs")
        return self

    @model_validator(mode="after")
    def _fields_apply(self) -> Self:
        size, keep = self.over_sampling_batch_size, self.dynamic_sampling_filter
        if size is not None and size < self.rollout_batch_size:
            raise ValueError(
                f"over_sampling_batch_size ({size}) must be at least rollout_batch_size ({self.rollout_batch_size})"
            )
        if self.mask_offpolicy_in_partial_rollout and not self.partial_rollout:
            raise ValueError("mask_offpolicy_in_partial_rollout only applies when partial_rollout is true")
        if self.max_staleness is not None and not self.partial_rollout:
            raise ValueError("max_staleness only applies when partial_rollout is true")
        if self.sample_timeout_s is not None and self.sample_timeout_s > self.timeout_s:
            raise ValueError(
                f"sample_timeout_s ({self.sample_timeout_s:g}) must not be above timeout_s ({self.timeout_s:g})"
            )
        if keep is not None and keep not in SHIPPED_FILTERS and "." not in keep and ":" not in keep:
            raise ValueError(
                f"dynamic_sampling_filter {keep!r} is neither package.module:function nor one of "
                f"{', '.join(SHIPPED_FILTERS)}"
            )
        return self

    @property
    def samples_per_rollout(self) -> int:
        return self.rollout_batch_size * self.n_samples_per_prompt
