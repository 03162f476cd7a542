"""What the control plane asks of a cluster."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from trainers.reports import Launch


class DriverStatus(StrEnum):
    ABSENT = "absent"
    PENDING = "pending"
    ALIVE = "alive"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class DriverSeen:
    """What the cluster says of a driver. ``detail`` is the cluster's own word: why it waits, why it died."""

    status: DriverStatus
    detail: str = ""


class ClusterUnavailable(Exception):
    """The cluster did not answer in time; nothing can be said of what runs on it."""


class Cluster(Protocol):
    """Drivers are named, so every call may be repeated. Each call has a deadline and raises ClusterUnavailable."""

    async def start_driver(self, name: str, launch: Launch) -> None:
        """Start the driver, or find it started already."""
        ...

    async def observe(self, name: str) -> DriverSeen: ...

    async def release(self, name: str) -> bool:
        """Kill the driver and give back what it reserved. True once nothing of it is left."""
        ...

    async def describe(self) -> str:
        """One line for ``/readyz``: nodes and resources. Raises ClusterUnavailable."""
        ...

    async def close(self) -> None: ...


def driver_name(job_id: str, attempt: int) -> str:
    return f"job-{job_id}-{attempt}"
