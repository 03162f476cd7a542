"""What users ask of jobs. Each call is one short transaction; the reconciler and the driver bring it about."""

from sqlalchemy import func

from controlplane.db import Database
from controlplane.errors import Conflict
from controlplane.events import repository as events
from controlplane.jobs import repository as jobs
from controlplane.jobs.changes import Changes
from controlplane.jobs.models import JobRow
from controlplane.jobs.spec import AnySpec
from controlplane.jobs.states import JobState
from trainers.reports import Wanted


class JobService:
    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def submit(self, spec: AnySpec, idempotency_key: str | None) -> JobRow:
        """Queue a job. The same key again returns the job that it made; with another spec it raises Conflict."""
        async with self._database.begin() as session:
            job = await jobs.insert_job(session, spec, idempotency_key)
            if job is None:
                assert idempotency_key is not None
                job = await jobs.by_idempotency_key(session, idempotency_key)
                if job is None or job.spec != spec.model_dump(mode="json"):
                    raise Conflict(f"Idempotency-Key {idempotency_key!r} was used with another spec: choose a new key")
        self._changes.notify(job.id, due=True)
        return job

    async def cancel(self, job_id: str) -> JobRow:
        """Ask for the job's end. Idempotent; raises Conflict when the job has ended otherwise."""
        async with self._database.begin() as session:
            job = await jobs.lock(session, job_id)
            if JobState(job.state).final and job.state != JobState.CANCELLED:
                raise Conflict(f"the job has {job.state} already")
            if job.wanted != Wanted.CANCEL and not JobState(job.state).final:
                await jobs.note(
                    session, job_id, wanted=Wanted.CANCEL, cancel_requested_at=func.now(), due_at=func.now()
                )
                await events.append(
                    session, job_id, job.attempt, type="job.cancel_requested", message="the user asked to cancel"
                )
                await session.refresh(job)
        self._changes.notify(job_id, due=True)
        return job

    async def finish(self, job_id: str) -> JobRow:
        """Ask a job that runs to end well at its next rollout: save, export, succeed. Idempotent."""
        async with self._database.begin() as session:
            job = await jobs.lock(session, job_id)
            if "conversion" in job.spec:
                raise Conflict(
                    "a conversion has no rollouts after which it could finish: wait for its end, or cancel it"
                )
            if job.state not in (JobState.STARTING, JobState.RUNNING) or job.wanted == Wanted.CANCEL:
                raise Conflict(f"only a job that runs can finish early; this one is {job.state}, wanted: {job.wanted}")
            if job.wanted != Wanted.FINISH:
                await jobs.note(session, job_id, wanted=Wanted.FINISH)
                await events.append(
                    session, job_id, job.attempt, type="job.finish_requested", message="the user asked to finish early"
                )
                await session.refresh(job)
        self._changes.notify(job_id, due=True)
        return job
