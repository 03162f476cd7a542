"""What trainers ask of engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

type PauseMode = Literal["abort", "retract", "in_place"]


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """A tensor under its Hugging Face name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """torch's name without the prefix: ``float32``, ``bfloat16``."""


@dataclass(frozen=True, slots=True)
class CollectivePlan:
    """How the receivers join the sender's process group; the sender is rank 0."""

    group: str
    backend: Literal["gloo", "nccl"]
    master_address: str
    master_port: int
    world_size: int
    rank_offset: int
    """Rank of this receiver's first process in the group."""


class WeightReceiver(Protocol):
    """One engine, as weight sync sees it. A receiver is picklable and compares equal to itself alone: it is the
    address of one launch of an engine. Every method raises an EngineError when the engine refuses or is gone."""

    @property
    def name(self) -> str: ...

    @property
    def num_ranks(self) -> int:
        """Processes of this engine that take part in a collective."""
        ...

    @property
    def model_path(self) -> str:
        """The Hugging Face directory that the engine was started from."""
        ...

    async def pause(self, mode: PauseMode) -> None: ...

    async def join(self, plan: CollectivePlan) -> None: ...

    async def load(self, group: str, bucket: Sequence[TensorMeta]) -> None:
        """Receive one bucket over ``group``: the tensors in this order, as one flat run of bytes. Returns when the
        engine holds it."""
        ...

    async def commit(self, version: int) -> bool:
        """All buckets are loaded: report ``version`` from here on, and drop what was cached under the old weights.
        False when requests in flight keep the cache alive (see :meth:`drain`)."""
        ...

    async def invalidate(self) -> None:
        """The engine holds a mixture: make it report no version, so that nothing it samples is taken for good."""
        ...

    async def leave(self, group: str) -> None: ...

    async def resume(self) -> None: ...

    async def drain(self, grace_s: float) -> None:
        """Wait for the requests in flight, end those that take longer, and drop the cache."""
        ...

    async def weight_version(self) -> int | None:
        """The version that the engine reports, None before the first update and after :meth:`invalidate`."""
        ...
