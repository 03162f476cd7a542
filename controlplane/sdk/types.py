"""What the API answers, as the client reads it: fields that a newer server adds are ignored."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from controlplane.jobs.schemas import JobSummary, JobView


class Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Job(JobView):
    @property
    def ended(self) -> bool:
        return self.state.final

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"


class SubmittedJob(Job):
    notices: tuple[str, ...] = ()
    """What the API had to say of the flags that the job was made from."""


class Event(Read):
    id: int
    attempt: int
    at: datetime
    level: Literal["info", "warning", "error"]
    type: str
    message: str
    data: dict[str, Any]


class Step(Read):
    """One finished rollout."""

    rollout_id: int
    attempt: int
    at: datetime
    weight_version: int
    values: dict[str, float | None]
    """Metrics by name; None where the number was not finite."""

    def value(self, name: str) -> float | None:
        return self.values.get(name)


class Evaluation(Read):
    """What one eval set showed of one weight version."""

    weight_version: int
    name: str
    attempt: int
    at: datetime
    values: dict[str, float | None]
    samples_path: str


class Checkpoint(Read):
    format: Literal["megatron", "hf"]
    path: str
    rollout_id: int
    weight_version: int
    at: datetime


__all__ = ["Checkpoint", "Evaluation", "Event", "Job", "JobSummary", "Step", "SubmittedJob"]
