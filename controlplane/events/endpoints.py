"""Events over HTTP."""

import time
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from controlplane.db import Database
from controlplane.events import repository as events
from controlplane.jobs import repository as jobs
from controlplane.jobs.changes import Changes
from controlplane.jobs.schemas import View
from controlplane.jobs.states import JobState

# What another process wrote wakes nobody here: look again after this long.
_LOOK_S = 0.5


class EventView(View):
    id: int
    attempt: int
    at: datetime
    level: Literal["info", "warning", "error"]
    type: str
    message: str
    data: dict[str, Any]


class EventList(View):
    items: list[EventView]
    next: int
    """Pass as ``after`` for what comes next."""


def events_router(database: Database, changes: Changes) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

    @router.get("/events")
    async def list_events(
        job_id: str,
        request: Request,
        after: Annotated[int, Query(ge=0, lt=2**63, description="`next` of the page before.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
        wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for an event, if there is none.")] = 0,
    ) -> EventList:
        """What happened to the job, oldest first."""
        deadline = time.monotonic() + wait
        while True:
            async with database.read() as session:
                state = JobState((await jobs.get(session, job_id)).state)
                rows = await events.page(session, job_id, after=after, limit=limit)
            left = deadline - time.monotonic()
            if rows or state.final or left <= 0 or await request.is_disconnected():
                items = [EventView.model_validate(row) for row in rows]
                return EventList(items=items, next=items[-1].id if items else after)
            await changes.wait(job_id, min(left, _LOOK_S))

    return router
