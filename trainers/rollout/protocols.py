"""What the loop, the rollout functions and the parts that they work with promise each other. Light."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engines.config import SamplingConfig
from engines.types import Generation, Sample
from trainers.config import RunConfig
from trainers.rollout.context_length import context_length

type RewardFunction = Callable[[Sample], Awaitable[float | None]]
"""Scores one finished sample; None says that it could not be judged in time."""

type Progress = Callable[[str], None]
"""Says in plain words what a rollout waits for; cheap to call, often."""


class Generator(Protocol):
    """The engines, as a rollout sees them; :class:`engines.client.GenerateClient` bounds the requests in flight."""

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
    ) -> Generation: ...

    async def abort(self, rid: str) -> None:
        """End the requests whose id begins with ``rid``: they return what they have."""
        ...


class DataSource(Protocol):
    """Prompts, in an order that resumes exactly."""

    def __len__(self) -> int:
        """Prompts in one epoch."""
        ...

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        """The next prompts with ``n_samples`` pending samples each; groups that were put back come first."""
        ...

    def put_back(self, groups: Sequence[list[Sample]]) -> None:
        """Take back groups that are not finished: they are handed out again, with all that they hold."""
        ...

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs to go on exactly here, as JSON."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class GenerateFunction(Protocol):
    """Generates for one sample, in place of one request: may call the engines and tools any number of times. More
    than one sample that came of it share their ``trajectory_index``."""

    async def __call__(
        self, context: "RolloutContext", sample: Sample, sampling: SamplingConfig
    ) -> Sample | list[Sample]: ...


@dataclass(frozen=True, slots=True)
class RolloutDoors:
    """The user's functions that the shipped rollout calls; None where there is none. All are checked, and those that
    were written for slime adapted: see :mod:`trainers.plugins`."""

    generate: GenerateFunction | None = None
    """Returns a list always: one sample, or siblings of one trajectory."""
    generate_sends_by_itself: bool = False
    """Its requests do not go through ``context.client``: they end when it is cancelled."""
    dynamic_sampling_filter: Callable[[list[Sample]], bool] | None = None
    """Whether a finished group is kept."""
    sample_filter: Callable[[list[list[Sample]]], Awaitable[None]] | None = None
    """Masks the samples that take no part in the loss."""
    all_samples_process: Callable[[list[list[Sample]], DataSource], Awaitable[None]] | None = None
    """Sees every group of the rollout, dropped ones too."""


@dataclass(frozen=True, slots=True)
class RolloutContext:
    """What a rollout function works with."""

    config: RunConfig
    data: DataSource
    client: Generator
    reward: RewardFunction
    tokenizer: Any
    """A Hugging Face tokenizer."""
    base_url: str
    """Of the router: `/generate`, `/v1/chat/completions` …"""
    weight_version: int
    """What the engines serve."""
    progress: Progress
    doors: RolloutDoors = RolloutDoors()
    evaluating: bool = False
    """What is generated is a measurement, and not trained on."""

    @property
    def context_length(self) -> int | None:
        """What the engines take, prompt and response together; None: not known."""
        return context_length(self.config.model.hf_checkpoint, self.config.engine.sglang)


@dataclass(frozen=True, slots=True)
class RolloutOutput:
    """What a rollout function brings: whole groups to train on, and what to chart."""

    groups: list[list[Sample]]
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


class RolloutFunction(Protocol):
    async def __call__(self, context: RolloutContext, rollout_id: int) -> RolloutOutput: ...
