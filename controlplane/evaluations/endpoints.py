"""Evaluations over HTTP."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from controlplane.db import Database
from controlplane.evaluations import repository as evaluations
from controlplane.jobs import repository as jobs
from controlplane.jobs.schemas import View


class EvaluationView(View):
    weight_version: int
    """The version of the policy that answered: the number of rollouts it was trained on."""
    name: str
    """Of the eval set."""
    attempt: int
    at: datetime
    values: dict[str, float | None]
    """By name; null where the number was not finite."""
    samples_path: str
    """A .jsonl file with every sample, where the job's processes wrote it."""


class EvaluationList(View):
    items: list[EvaluationView]
    next: int
    """Pass as ``after`` for what comes next."""


def evaluations_router(database: Database) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

    @router.get("/evaluations")
    async def list_evaluations(
        job_id: str,
        after: Annotated[int, Query(ge=-1, lt=2**31, description="Weight versions behind this one; -1: all.")] = -1,
        limit: Annotated[int, Query(ge=1, le=1000, description="Weight versions at most.")] = 500,
    ) -> EvaluationList:
        """What the job's eval sets showed, in order of weight versions."""
        async with database.read() as session:
            rows = await evaluations.page(session, job_id, after=after, limit=limit)
            if not rows:
                await jobs.require(session, job_id)
        items = [EvaluationView.model_validate(row) for row in rows]
        return EvaluationList(items=items, next=items[-1].weight_version if items else after)

    return router
