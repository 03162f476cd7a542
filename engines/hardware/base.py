"""What the rest of the system may ask about an accelerator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of accelerator. Picklable: the driver hands it to actors."""

    name: Literal["cpu", "cuda"]
    torch_device: Literal["cpu", "cuda"]
    collective_backend: Literal["gloo", "nccl"]
    slot_resources: Mapping[str, float]
    """What one slot (one training process, or one GPU of an engine) takes of the Ray cluster."""
    environment: Mapping[str, str]
    """For every process that computes: trainer ranks and engines."""
    engine_environment: Mapping[str, str]
    """For engine processes, beside ``environment``."""
    trainer_environment: Mapping[str, str]
    """For trainer ranks, beside ``environment``."""
    sglang_defaults: Mapping[str, Any]
    """SGLang options where its own default does not serve; a job's ``engine.sglang`` overrides them."""

    bucket_mb: float
    """MiB of new weights that travel at once, unless the job says otherwise."""

    def slots(self, count: int) -> dict[str, float]:
        """Ray resources of ``count`` slots on one node."""
        return {name: amount * count for name, amount in self.slot_resources.items()}
