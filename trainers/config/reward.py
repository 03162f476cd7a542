"""How samples are scored."""

from typing import Literal, Self

from pydantic import model_validator

from engines.config import Seconds, Section


class RewardConfig(Section):
    """How a sample is scored: a shipped rule by name, or a function ``package.module:function``."""

    type: Literal["exact_match", "regex_match", "last_number", "custom"] = "exact_match"
    function: str | None = None
    timeout_s: Seconds = 60.0
    """For one sample; later is a reward of 0 for a shipped rule's slip, a failed sample for a custom one."""

    @model_validator(mode="after")
    def _function_belongs_to_custom(self) -> Self:
        if (self.type == "custom") != (self.function is not None):
            raise ValueError("reward.function is required for type 'custom' and only allowed there")
        return self
