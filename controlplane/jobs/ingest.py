"""Takes in what drivers report: each report once, in order, with everything it means in one transaction."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from controlplane.auth import same_token
from controlplane.checkpoints import repository as checkpoints
from controlplane.db import Database
from controlplane.errors import Invalid, Unauthorized
from controlplane.evaluations import repository as evaluations
from controlplane.events import repository as events
from controlplane.jobs import repository as jobs
from controlplane.jobs.changes import Changes
from controlplane.jobs.models import AttemptRow, JobRow
from controlplane.jobs.states import ENDINGS, JobState
from controlplane.metrics import repository as metrics
from trainers.reports import (
    CheckpointDeletedReport,
    CheckpointReport,
    EvaluationReport,
    EventReport,
    FinishedReport,
    Origin,
    Phase,
    PhaseReport,
    PlanReport,
    Report,
    ReportReply,
    ServingReport,
    StepReport,
    Wanted,
)


class Ingest:
    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def take(self, job_id: str, number: int, token: str, reports: Sequence[Report]) -> ReportReply:
        """Store what is new and follows on without a gap; the reply says up to where everything is stored.

        Raises Unauthorized when ``token`` is not that attempt's, and Invalid where it delivers facts that are no
        earlier attempt's.
        """
        async with self._database.begin() as session:
            # A heartbeat writes one row of the attempt and leaves the job, which readers poll, alone.
            job = await (jobs.lock if reports else jobs.get)(session, job_id)
            attempt = await jobs.get_attempt(session, job_id, number)
            if attempt is None or not same_token(token, attempt.token_sha256):
                raise Unauthorized("the token is not this attempt's")
            if number != job.attempt or attempt.ended_at is not None or JobState(job.state).final:
                return ReportReply(acked=attempt.last_seq, wanted=Wanted(job.wanted), superseded=True)
            new = next_in_order(reports, attempt.last_seq)
            acked = new[-1].seq if new else attempt.last_seq
            heard: dict[str, Any] = {"last_heartbeat_at": func.clock_timestamp()}
            if new:  # the job's row is held; a heartbeat must not write a position that it read without it
                heard["last_seq"] = acked
            await jobs.update_attempt(session, job_id, number, **heard)
            if new:
                job = await _store(session, job, attempt, await _first_heard(session, attempt, new))
        if new:
            self._changes.notify(job_id, due=job.state == JobState.STOPPING)
        return ReportReply(acked=acked, wanted=Wanted(job.wanted))


def next_in_order(reports: Sequence[Report], last_seq: int) -> list[Report]:
    """Of ``reports``, in whatever order they came, those that go on from ``last_seq`` without a gap."""
    by_seq = {report.seq: report for report in reports}
    found: list[Report] = []
    while (report := by_seq.get(last_seq + len(found) + 1)) is not None:
        found.append(report)
    return found


def unheard(reports: Sequence[Report], stored: Mapping[int, int]) -> list[Report]:
    """``reports`` without what earlier attempts left behind as undelivered, and had delivered. ``stored``: up to where
    each of these attempts is stored."""
    return [report for report in reports if report.origin is None or report.origin.seq > stored[report.origin.attempt]]


def origin_of(report: Report, attempt: int) -> Origin:
    """The attempt and position under which it is stored, whoever delivers it: here ``attempt``."""
    return report.origin or Origin(attempt=attempt, seq=report.seq)


async def _first_heard(session: AsyncSession, attempt: AttemptRow, reports: Sequence[Report]) -> list[Report]:
    """Those that nobody has delivered before; notes that the others' attempts are now stored as far. Raises Invalid."""
    left_behind = [report.origin for report in reports if report.origin is not None]
    if not left_behind:
        return list(reports)
    rows = await jobs.attempts(session, attempt.job_id)
    stored = {row.number: row.last_seq for row in rows if row.number < attempt.number}
    if strangers := sorted({origin.attempt for origin in left_behind} - stored.keys()):
        raise Invalid(f"attempt {attempt.number} delivers facts of attempt {strangers[0]}, which is none before it")
    first = unheard(reports, stored)
    heard = sorted((report.origin.attempt, report.origin.seq) for report in first if report.origin is not None)
    for number, last_seq in dict(heard).items():  # the last of each attempt
        await jobs.update_attempt(session, attempt.job_id, number, last_seq=last_seq)
    return first


async def _store(session: AsyncSession, job: JobRow, attempt: AttemptRow, reports: Sequence[Report]) -> JobRow:
    def told(report: Report) -> dict[str, Any]:
        return {"job_id": job.id, "attempt": origin_of(report, attempt.number).attempt, "at": report.at}

    await events.append_all(
        session,
        [
            told(r)
            | {"seq": origin_of(r, attempt.number).seq, "level": r.level, "type": clean(r.type)}
            | {"message": clean(r.message), "data": storable(r.data)}
            for r in reports
            if isinstance(r, EventReport)
        ],
    )
    await metrics.put(
        session,
        [
            told(r) | {"rollout_id": r.rollout_id, "weight_version": r.weight_version, "values": storable(r.metrics)}
            for r in reports
            if isinstance(r, StepReport)
        ],
    )
    await checkpoints.put(
        session,
        [
            {"job_id": job.id, "format": r.format, "path": clean(r.path), "rollout_id": r.rollout_id}
            | {"weight_version": r.weight_version, "at": r.at}
            for r in reports
            if isinstance(r, CheckpointReport)
        ],
    )
    for r in last_words(reports):
        if isinstance(r, CheckpointDeletedReport):
            await checkpoints.note_deleted(session, job.id, r.format, clean(r.path), r.at)
    await evaluations.put(
        session,
        [
            told(r)
            | {"weight_version": r.weight_version, "name": clean(r.name)}
            | {"values": storable(r.metrics), "samples_path": clean(r.samples_path)}
            for r in reports
            if isinstance(r, EvaluationReport)
        ],
    )
    return await _follow(session, job, reports)


def last_words(reports: Sequence[Report]) -> list[CheckpointReport | CheckpointDeletedReport]:
    """What is said last of each checkpoint: one that was deleted may be saved again."""
    said = [report for report in reports if isinstance(report, CheckpointReport | CheckpointDeletedReport)]
    return list({(report.format, report.path): report for report in said}.values())


async def _follow(session: AsyncSession, job: JobRow, reports: Sequence[Report]) -> JobRow:
    """What the reports mean for the job's row and state."""
    columns: dict[str, Any] = {}
    for report in reports:
        match report:
            case PhaseReport():
                columns |= {"phase": report.phase, "waiting_for": clean(report.waiting_for) or None}
            case PlanReport():
                columns |= {"num_rollouts": report.num_rollouts}
            case StepReport():
                columns |= {"rollout_id": report.rollout_id, "weight_version": report.weight_version}
            case ServingReport():
                columns |= {"router_url": report.router_url, "served_model": report.model}
            case _:
                pass
    in_flight = job.state in (JobState.STARTING, JobState.RUNNING)
    if not in_flight:  # it is being released: nothing serves any more
        columns = {key: value for key, value in columns.items() if key not in ("router_url", "served_model")}
    begun = any(_is_under_way(report) for report in reports)
    finished = next((report for report in reports if isinstance(report, FinishedReport)), None)
    if begun and job.state == JobState.STARTING:
        job = await jobs.transition(session, job, JobState.RUNNING, message="the run is under way", values=columns)
    elif columns:
        await jobs.note(session, job.id, **columns)
    if finished is not None and in_flight:
        failed = ENDINGS[finished.reason].state is JobState.FAILED
        detail = clean(finished.detail)
        job = await jobs.transition(
            session,
            job,
            JobState.STOPPING,
            message=f"the run ended: {finished.reason.value}" + (f": {detail}" if detail else ""),
            level="error" if failed else "info",
            data={"reason": finished.reason.value},
            values={
                "end_reason": finished.reason,
                "end_detail": detail or None,
                "waiting_for": "the cluster to give back what the run held",
            },
        )
    return job


def _is_under_way(report: Report) -> bool:
    """Whether the run does what the job is for, and not an attempt before it."""
    if report.origin is not None:
        return False
    if isinstance(report, PhaseReport):
        return report.phase is Phase.CONVERTING
    return isinstance(report, ServingReport | StepReport)


def clean(text: str) -> str:
    """Postgres stores neither NUL, which a log's tail may well hold, nor half a surrogate pair."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def storable(value: Any) -> Any:
    """``value`` as JSONB can hold it: what is not finite becomes null, NUL the replacement character."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): storable(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [storable(inner) for inner in cast("list[Any]", value)]
    return value
