"""What the API says of jobs."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from controlplane.jobs.states import JobState
from trainers.reports import EndReason, Phase, Wanted


class View(BaseModel):
    """Base of everything that the API answers; clients read it with unknown fields ignored."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Progress(View):
    rollout_id: int | None
    """The last finished rollout, counted from 0."""
    num_rollouts: int
    """0 where there are none, and under ``rollout.num_epochs`` until the run has counted its prompts."""
    weight_version: int | None


class AttemptView(View):
    number: int
    started_at: datetime
    ended_at: datetime | None
    end_reason: EndReason | None
    end_detail: str | None


class JobSummary(View):
    id: str
    name: str | None
    labels: dict[str, str]
    state: JobState
    wanted: Wanted
    phase: Phase | None
    waiting_for: str | None
    """What would end the present phase, in plain words."""
    attempt: int
    max_attempts: int
    progress: Progress
    end_reason: EndReason | None
    end_detail: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


class JobView(JobSummary):
    openai_base_url: str | None
    """The job's OpenAI-compatible endpoint behind this API and its key, while the job serves."""
    router_url: str | None
    """The same endpoint on the job's own router, without a key, for those who can reach it."""
    served_model: str | None
    attempts: list[AttemptView]
    spec: dict[str, Any]
    """The resolved spec, whole."""


class SubmittedJobView(JobView):
    notices: list[str] = []
    """Of a job that was submitted as a command line: flags that are ignored and why, and what differs from slime."""


class JobList(View):
    items: list[JobSummary]
    next: str | None
    """Pass as ``after`` for the next, older page; null on the last."""


class FieldErrorView(View):
    path: str
    message: str
    suggestion: str | None


class ErrorBody(View):
    code: str
    message: str
    fields: list[FieldErrorView]


class ErrorView(View):
    """Every error has this shape; ``fields`` is empty unless the request's content was wrong."""

    error: ErrorBody
