"""Rollway from Python: ``Rollway().submit(spec)``."""

from typing import TYPE_CHECKING, Any

from controlplane.sdk.errors import ApiError, JobWaitTimeout, NotReachable, RollwayError

if TYPE_CHECKING:
    from controlplane.sdk.client import Rollway
    from controlplane.sdk.types import Checkpoint, Evaluation, Event, Job, JobSummary, Step, SubmittedJob

__all__ = [
    "ApiError",
    "Checkpoint",
    "Evaluation",
    "Event",
    "Job",
    "JobSummary",
    "JobWaitTimeout",
    "NotReachable",
    "Rollway",
    "RollwayError",
    "Step",
    "SubmittedJob",
]


def __getattr__(name: str) -> Any:
    """httpx and Pydantic come in with the first use: the command line starts without them."""
    if name == "Rollway":
        from controlplane.sdk.client import Rollway

        return Rollway
    if name in __all__:
        from controlplane.sdk import types

        return getattr(types, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
