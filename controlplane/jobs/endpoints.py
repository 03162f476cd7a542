"""Jobs over HTTP, and the door for their drivers' reports."""

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response, status

from controlplane.auth import AttemptCredentials, bearer
from controlplane.db import Database
from controlplane.jobs import repository as jobs
from controlplane.jobs.flags.manifests import Manifests
from controlplane.jobs.ingest import Ingest
from controlplane.jobs.schemas import JobList, JobSummary, JobView, SubmittedJobView
from controlplane.jobs.service import JobService
from controlplane.jobs.snapshots import JobSnapshots, job_summary
from controlplane.jobs.states import JobState
from controlplane.jobs.submissions import Submission, read_submission
from trainers.reports import ReportBatch, ReportReply

# Read from the request by hand: it is the route that is polled, and a declared header costs a tenth of the answer.
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "The `ETag` of the last answer.",
}


def jobs_router(database: Database, service: JobService, snapshots: JobSnapshots, manifests: Manifests) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @router.post("", status_code=status.HTTP_202_ACCEPTED, response_model=SubmittedJobView)
    async def submit_job(
        submission: Annotated[Submission, Body()],
        idempotency_key: Annotated[str | None, Header(max_length=255, min_length=1)] = None,
    ) -> Response:
        """Queue a job: a spec, or slime's command line as `{"argv": […]}`. Sent again with the same
        `Idempotency-Key`, the same job is answered."""
        spec, notices = await asyncio.to_thread(read_submission, submission, manifests)
        job = await service.submit(spec, idempotency_key)
        snapshot = await snapshots.get(job.id)
        return Response(
            snapshot.body.removesuffix(b"}") + b',"notices":' + json.dumps(notices).encode() + b"}",
            status.HTTP_202_ACCEPTED,
            media_type="application/json",
            headers={"Location": f"/v1/jobs/{job.id}", "ETag": snapshot.etag},
        )

    @router.get("")
    async def list_jobs(
        after: Annotated[
            str | None, Query(pattern="^job_[0-9a-z]{20}$", description="The id of the last job of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        state: Annotated[list[JobState] | None, Query(description="Only jobs in these states.")] = None,
    ) -> JobList:
        """Jobs, newest first."""
        async with database.read() as session:
            rows = await jobs.page(session, after=after, limit=limit + 1, states=state or [])
        page = [job_summary(row) for row in rows[:limit]]
        return JobList(items=page, next=page[-1].id if len(rows) > limit else None)

    @router.get(
        "/{job_id}",
        response_model=JobView,
        responses={304: {"description": "The job is as `If-None-Match` knows it."}},
        openapi_extra={"parameters": [_IF_NONE_MATCH]},
    )
    async def get_job(job_id: str, request: Request) -> Response:
        """One job, whole. Polling with `If-None-Match` costs next to nothing while nothing changes."""
        if_none_match = request.headers.get("if-none-match")
        snapshot = await snapshots.get(job_id)
        headers = {"ETag": snapshot.etag, "Cache-Control": "no-cache"}
        if if_none_match is not None and matches(if_none_match, snapshot.etag):
            return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
        return Response(snapshot.body, media_type="application/json", headers=headers)

    @router.post("/{job_id}/cancel", status_code=status.HTTP_202_ACCEPTED)
    async def cancel_job(job_id: str) -> JobSummary:
        """End the job: its run is asked to stop, and made to after a while. Asking again does no harm."""
        return job_summary(await service.cancel(job_id))

    @router.post("/{job_id}/finish", status_code=status.HTTP_202_ACCEPTED)
    async def finish_job(job_id: str) -> JobSummary:
        """End a running job well, after the rollout in hand: it saves, exports and succeeds."""
        return job_summary(await service.finish(job_id))

    return router


def reports_router(ingest: Ingest) -> APIRouter:
    router = APIRouter(prefix="/v1/attempts", tags=["drivers"])

    @router.post("/{job_id}/{attempt}/reports")
    async def take_reports(
        job_id: str, attempt: Annotated[int, Path(ge=1, lt=2**31)], batch: ReportBatch, credentials: AttemptCredentials
    ) -> ReportReply:
        """What an attempt's driver reports; an empty batch is a heartbeat. Repeating a batch does no harm."""
        return await ingest.take(job_id, attempt, bearer(credentials), batch.reports)

    return router


def matches(if_none_match: str, etag: str) -> bool:
    """RFC 9110 §13.1.2: any of a list of tags, compared weakly, or ``*``."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]
