"""Checkpoints over HTTP."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter

from controlplane.checkpoints import repository as checkpoints
from controlplane.db import Database
from controlplane.jobs import repository as jobs
from controlplane.jobs.schemas import View


class CheckpointView(View):
    format: Literal["megatron", "hf"]
    path: str
    rollout_id: int
    weight_version: int
    at: datetime


class CheckpointList(View):
    items: list[CheckpointView]


def checkpoints_router(database: Database) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

    @router.get("/checkpoints")
    async def list_checkpoints(job_id: str) -> CheckpointList:
        """What the job saved and exported and has not deleted since, oldest first."""
        async with database.read() as session:
            rows = await checkpoints.of_job(session, job_id)
            if not rows:
                await jobs.require(session, job_id)
        return CheckpointList(items=[CheckpointView.model_validate(row) for row in rows])

    return router
