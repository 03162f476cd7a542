"""Weight synchronisation."""

from typing import Annotated, Literal

from pydantic import Field

from engines.config import Seconds, Section


class SyncConfig(Section):
    """How new weights reach the engines."""

    pause_mode: Literal["abort", "retract", "in_place"] = "retract"
    """What happens to requests in flight: ended short, requeued and recomputed, or continued on the old KV cache."""
    bucket_mb: Annotated[float, Field(gt=0)] | None = None
    """MiB that travel at once, on either side in memory beside the weights. Unset: 512 on GPUs, and 24 without."""
    timeout_s: Seconds = 600.0
