"""The services of an installation, and how each stands. Light: the command line reads this at every start."""

from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    POSTGRES = "Postgres"
    MIGRATIONS = "Migrations"
    RAY = "Ray"
    API = "API"


class Stage(StrEnum):
    STARTING = "starting"
    STARTED = "started"
    RUNNING = "running"
    """It was there already."""
    EXTERNAL = "external"
    """Not ours: an address in the environment."""
    STOPPED = "stopped"
    FAILED = "failed"
    UNREADY = "unready"
    """It runs, and does not do what it should."""


@dataclass(frozen=True, slots=True)
class PartState:
    part: Part
    stage: Stage
    where: str = ""
    """Its address, or what is wrong."""
