"""Weight synchronisation."""

from typing import Annotated, Literal

from pydantic import Field

from engines.config import Seconds, Section


class SyncConfig(Section):
    """How new weights reach the engines."""

    pause_mode: Literal["abort", "retract", "in_place"] = "retract"
    """What happens to requests in flight: ended short, requeued and recomputed, or continued on the old KV cache."""
    bucket_mb: Annotated[float, Field(gt=0)] = 512.0
    timeout_s: Seconds = 600.0
