"""Metrics over HTTP."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from controlplane.db import Database
from controlplane.jobs import repository as jobs
from controlplane.jobs.schemas import View
from controlplane.metrics import repository as metrics


class MetricsView(View):
    rollout_id: int
    attempt: int
    """The attempt whose training of this rollout counts."""
    at: datetime
    weight_version: int
    values: dict[str, float | None]
    """By name; null where the number was not finite."""


class MetricsList(View):
    items: list[MetricsView]
    next: int
    """Pass as ``after`` for what comes next."""


def metrics_router(database: Database) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

    @router.get("/metrics")
    async def list_metrics(
        job_id: str,
        after: Annotated[int, Query(ge=-1, lt=2**31, description="Rollouts behind this one; -1: all.")] = -1,
        limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
    ) -> MetricsList:
        """The job's finished rollouts in order, each once."""
        async with database.read() as session:
            rows = await metrics.page(session, job_id, after=after, limit=limit)
            if not rows:
                await jobs.require(session, job_id)
        items = [MetricsView.model_validate(row) for row in rows]
        return MetricsList(items=items, next=items[-1].rollout_id if items else after)

    return router
