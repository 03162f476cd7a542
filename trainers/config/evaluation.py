"""How the policy is measured while it trains."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from engines.config import Positive, SamplingConfig, Seconds, Section
from trainers.config.data import DataConfig
from trainers.config.reward import RewardConfig


class EvalSetConfig(Section):
    """One eval set. What is unset is taken from ``eval``, and then from ``data`` or ``rollout``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    """In its metrics and in the name of its file of samples."""
    prompt_data: str
    input_key: str | None = None
    label_key: str | None = None
    metadata_key: str | None = None
    tool_key: str | None = None
    n_samples_per_prompt: Positive | None = None
    sampling: SamplingConfig | None = None
    reward: RewardConfig | None = None

    def data(self, training: DataConfig) -> DataConfig:
        """Where its prompts come from: all of them, in the order of the file."""
        own = {
            key: value
            for key in ("input_key", "label_key", "metadata_key", "tool_key")
            if (value := getattr(self, key)) is not None
        }
        told: dict[str, Any] = training.model_dump() | own | {"prompt_data": self.prompt_data, "shuffle": False}
        return DataConfig.model_validate(told | {"max_prompt_len": None})


class EvalConfig(Section):
    """Evaluation with the engines of the run, pinned to one weight version."""

    sets: tuple[EvalSetConfig, ...] = ()
    interval: Positive | None = None
    """Evaluate after every this many rollouts. The last rollout is always evaluated."""
    before_train: bool = True
    """Evaluate before rollout 0, too."""
    n_samples_per_prompt: Positive = 1
    sampling: SamplingConfig | None = None
    """Unset: as for training."""
    reward: RewardConfig | None = None
    """Unset: as for training."""
    pass_reward: float = 1.0
    """A sample with at least this reward passes, for pass@k."""
    timeout_s: Seconds = 3600.0
    """For one evaluation of all sets."""

    @model_validator(mode="after")
    def _sets_are_told_apart(self) -> Self:
        names = [each.name for each in self.sets]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"eval.sets: two are named {twice!r}")
        if self.interval is not None and not self.sets:
            raise ValueError("eval.interval is set, but there is nothing to evaluate: add eval.sets")
        return self

    def samples_of(self, each: EvalSetConfig) -> int:
        return each.n_samples_per_prompt or self.n_samples_per_prompt

    def is_due(self, rollout_id: int, *, last: bool) -> bool:
        """Whether to evaluate after this rollout."""
        return bool(self.sets) and (last or (self.interval is not None and (rollout_id + 1) % self.interval == 0))
