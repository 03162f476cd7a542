"""One job, one step: load, observe outside any database session, decide, apply in a short transaction."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import func

from controlplane.auth import AttemptTokens, token_sha256
from controlplane.cluster.base import Cluster, ClusterUnavailable, driver_name
from controlplane.db import Database
from controlplane.jobs import repository as jobs
from controlplane.jobs.models import AttemptRow, JobRow
from controlplane.jobs.spec import field_errors, stored_spec
from controlplane.jobs.states import ENDINGS, JobState
from controlplane.reconcile.decide import (
    BeginAttempt,
    Decision,
    End,
    JobFacts,
    Released,
    Requeue,
    Seen,
    StartDriver,
    Stop,
    Timing,
    Wait,
    decide,
)
from trainers.reports import EndReason, Launch, Wanted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this process may act upon until the lease ends."""

    job_id: str
    lease_token: str
    now: datetime
    """The database's clock."""


class JobReconciler:
    def __init__(
        self,
        *,
        database: Database,
        cluster: Cluster,
        tokens: AttemptTokens,
        runs_dir: Path,
        api_url: str,
        timing: Timing,
    ) -> None:
        """``api_url``: where drivers reach the API."""
        self._database = database
        self._cluster = cluster
        self._tokens = tokens
        self._runs_dir = runs_dir
        self._api_url = api_url.rstrip("/")
        self._timing = timing

    async def reconcile(self, claim: Claim, listening_since: datetime) -> bool:
        """Take one step; True when the next can be taken at once.

        Raises LeaseLost when someone else wrote first, ClusterUnavailable and DatabaseUnavailable.
        """
        async with self._database.read() as session:
            job = await jobs.get(session, claim.job_id)
            attempt = await jobs.get_attempt(session, job.id, job.attempt) if job.attempt else None
        facts = facts_of(job, attempt, self._api_url)
        try:
            seen = await self._observe(facts, job.id)
            decision = decide(facts, seen, claim.now, listening_since=listening_since, timing=self._timing)
            return await self._apply(decision, job, claim)
        except ClusterUnavailable as error:
            heard_at = facts.heard_at or facts.driver_started_at
            silent = heard_at is None or claim.now - max(heard_at, listening_since) > timedelta(
                seconds=self._timing.quiet_s
            )
            if facts.state is JobState.STOPPING or silent:  # a driver that is heard goes on without us
                await self._show(job, claim, f"the cluster to answer: {error}")
            raise

    async def _observe(self, facts: JobFacts, job_id: str) -> Seen:
        name = driver_name(job_id, facts.attempt)
        if facts.state is JobState.STOPPING:
            return Released(await self._cluster.release(name))
        if facts.state not in (JobState.STARTING, JobState.RUNNING):
            return None
        if facts.driver_started_at is None and facts.wanted is Wanted.CANCEL:  # whatever the cluster would say
            return None
        return await self._cluster.observe(name)

    async def _apply(self, decision: Decision, job: JobRow, claim: Claim) -> bool:
        match decision:
            case Wait(waiting_for):
                if waiting_for is not None:
                    await self._show(job, claim, waiting_for)
                return False
            case BeginAttempt(number):
                await self._begin_attempt(job, claim, number)
                return True
            case StartDriver():
                return await self._start_driver(job, claim)
            case Stop(reason, detail):
                await self._stop(job, claim, reason, detail)
                return True
            case End(state, reason, detail):
                await self._end(job, claim, state, reason, detail)
                return False
            case Requeue(delay_s):
                await self._requeue(job, claim, delay_s)
                return False

    async def _begin_attempt(self, job: JobRow, claim: Claim, number: int) -> None:
        token = await self._tokens.token(job.id, number)
        async with self._database.begin() as session:
            await jobs.transition(
                session,
                job,
                JobState.STARTING,
                message=f"attempt {number} of {job.max_attempts} begins",
                lease_token=claim.lease_token,
                data={"attempt": number},
                values={
                    "attempt": number,
                    "started_at": func.coalesce(JobRow.started_at, func.now()),
                    "phase": "launching",
                    "waiting_for": "the driver to start",
                    "end_reason": None,
                    "end_detail": None,
                },
            )
            await jobs.insert_attempt(session, job.id, number, token_sha256(token))

    async def _start_driver(self, job: JobRow, claim: Claim) -> bool:
        """Whether the job changed its state: one whose spec this version refuses ends."""
        try:
            spec = stored_spec(job.spec)
        except ValidationError as error:
            wrong = "; ".join(f"{each.path}: {each.message}" for each in field_errors(error.errors()))
            detail = f"the job was accepted by another version of Rollway, and this one refuses it: {wrong}"
            await self._stop(job, claim, EndReason.CONFIG_INVALID, detail)
            return True
        launch = Launch(
            job_id=job.id,
            attempt=job.attempt,
            spec=spec.for_driver(),
            num_cpus=spec.driver_cpus,
            run_dir=str(self._runs_dir / job.id),
            report_url=f"{self._api_url}/v1/attempts/{job.id}/{job.attempt}/reports",
            report_token=await self._tokens.token(job.id, job.attempt),
        )
        await self._cluster.start_driver(driver_name(job.id, job.attempt), launch)
        # Not under the lease: that the driver was started is true whoever holds it.
        async with self._database.begin() as session:
            await jobs.update_attempt(session, job.id, job.attempt, driver_started_at=func.now())
        log.info("%s: the driver of attempt %d is started", job.id, job.attempt)
        return False

    async def _stop(self, job: JobRow, claim: Claim, reason: EndReason, detail: str) -> None:
        async with self._database.begin() as session:
            await jobs.transition(
                session,
                job,
                JobState.STOPPING,
                message=f"{reason.value}: {detail}",
                lease_token=claim.lease_token,
                level="error" if ENDINGS[reason].state is JobState.FAILED else "info",
                data={"reason": reason.value},
                values={
                    "end_reason": reason,
                    "end_detail": detail,
                    "phase": "releasing",
                    "waiting_for": "the cluster to give back what the run held",
                },
            )

    async def _end(self, job: JobRow, claim: Claim, state: JobState, reason: EndReason, detail: str | None) -> None:
        async with self._database.begin() as session:
            ended = await jobs.transition(
                session,
                job,
                state,
                message=f"the job has {'been ' if state is JobState.CANCELLED else ''}{state.value}",
                lease_token=claim.lease_token,
                level="error" if state is JobState.FAILED else "info",
                data={"reason": reason.value},
                values={"end_reason": reason, "end_detail": detail},
            )
            if job.state != JobState.QUEUED:
                await jobs.end_attempt(session, job.id, ended.attempt, job.end_reason, job.end_detail)

    async def _requeue(self, job: JobRow, claim: Claim, delay_s: float) -> None:
        async with self._database.begin() as session:
            await jobs.transition(
                session,
                job,
                JobState.QUEUED,
                message=f"{job.end_reason}: attempt {job.attempt + 1} of {job.max_attempts} begins in {delay_s:g} s",
                lease_token=claim.lease_token,
                level="warning",
                data={"reason": job.end_reason},
                due_in_s=delay_s,
                values={
                    "phase": None,
                    "waiting_for": f"attempt {job.attempt + 1}, {delay_s:g} s after {job.end_reason}",
                    "end_reason": None,
                    "end_detail": None,
                },
            )
            await jobs.end_attempt(session, job.id, job.attempt, job.end_reason, job.end_detail)

    async def _show(self, job: JobRow, claim: Claim, waiting_for: str) -> None:
        if job.waiting_for == waiting_for:
            return
        async with self._database.begin() as session:
            await jobs.note_if_unchanged(session, job, claim.lease_token, waiting_for=waiting_for)


def facts_of(job: JobRow, attempt: AttemptRow | None, api_url: str) -> JobFacts:
    return JobFacts(
        state=JobState(job.state),
        wanted=Wanted(job.wanted),
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        api_url=api_url,
        placement_timeout_s=job.spec["resources"]["placement_timeout_s"],
        cancel_requested_at=job.cancel_requested_at,
        driver_started_at=attempt.driver_started_at if attempt else None,
        heard_at=attempt.last_heartbeat_at if attempt else None,
        end_reason=EndReason(job.end_reason) if job.end_reason else None,
        end_detail=job.end_detail,
    )
