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
    """One engine, as weight sync sees it. A receiver is picklable: it is an address."""

    @property
    def name(self) -> str: ...

    @property
    def num_ranks(self) -> int:
        """Processes of this engine that take part in a collective."""
        ...

    async def pause(self, mode: PauseMode) -> None: ...

    async def join(self, plan: CollectivePlan) -> None: ...

    async def load(self, group: str, bucket: Sequence[TensorMeta], version: int) -> None:
        """Receive one bucket over ``group``. Returns when the engine holds it. ``version`` is what the
        engine will report after the update."""
        ...

    async def leave(self, group: str) -> None: ...

    async def resume(self) -> None: ...

    async def weight_version(self) -> int | None:
        """The version that the engine reports, None before the first update."""
        ...
