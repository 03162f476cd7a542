"""What an engine returns and a trainer learns from: tokens, with where each came from."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class SampleStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    TRUNCATED = "truncated"
    ABORTED = "aborted"
    FAILED = "failed"


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Generation:
    """One engine response. ``output_ids`` and ``log_probs`` have one entry per sampled token."""

    rid: str
    output_ids: list[int]
    log_probs: list[float]
    """Log-probability of each sampled token under the distribution that was sampled."""
    finish_reason: FinishReason
    weight_version: int
    text: str


@dataclass(slots=True)
class Sample:
    """One attempt at one prompt. ``tokens`` is the prompt followed by the response.

    The lists ``loss_mask``, ``rollout_log_probs`` and ``weight_versions`` describe the response alone:
    each has ``response_length`` entries, one per token.
    """

    index: int
    group_index: int
    prompt: str | list[dict[str, Any]]
    tokens: list[int] = field(default_factory=list[int])
    response: str = ""
    response_length: int = 0
    label: Any = None
    reward: float | None = None
    loss_mask: list[int] = field(default_factory=list[int])
    status: SampleStatus = SampleStatus.PENDING
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    rollout_log_probs: list[float] = field(default_factory=list[float])
    weight_versions: list[int] = field(default_factory=list[int])
    session_id: str | None = None
    trajectory_index: int | None = None
    """Samples that came of one attempt (say, the turns of an agent) have it in common; None: a sample alone."""

    @property
    def truncated(self) -> bool:
        return self.status is SampleStatus.TRUNCATED

    @property
    def aborted(self) -> bool:
        return self.status is SampleStatus.ABORTED

    @property
    def prompt_tokens(self) -> list[int]:
        return self.tokens[: len(self.tokens) - self.response_length]

    def append_sampled(self, generation: Generation) -> None:
        """Append what the engine sampled: trained on, with its log-probabilities and weight version."""
        count = len(generation.output_ids)
        if len(generation.log_probs) != count:
            raise ValueError(f"{count} tokens came with {len(generation.log_probs)} log-probabilities")
        self.tokens.extend(generation.output_ids)
        self.response += generation.text
        self.response_length += count
        self.loss_mask.extend([1] * count)
        self.rollout_log_probs.extend(generation.log_probs)
        self.weight_versions.extend([generation.weight_version] * count)
        match generation.finish_reason:
            case FinishReason.STOP:
                self.status = SampleStatus.COMPLETED
            case FinishReason.LENGTH:
                self.status = SampleStatus.TRUNCATED
            case FinishReason.ABORT:
                self.status = SampleStatus.ABORTED
