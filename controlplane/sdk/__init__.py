"""Rollway from Python: ``Rollway().submit(spec)``."""

from controlplane.sdk.client import Rollway
from controlplane.sdk.errors import ApiError, JobWaitTimeout, NotReachable, RollwayError
from controlplane.sdk.types import Checkpoint, Event, Job, JobSummary, Step

__all__ = [
    "ApiError",
    "Checkpoint",
    "Event",
    "Job",
    "JobSummary",
    "JobWaitTimeout",
    "NotReachable",
    "Rollway",
    "RollwayError",
    "Step",
]
