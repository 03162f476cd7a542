"""Statements on jobs and attempts. Each takes the caller's session; none waits on anything but the database."""

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Text, case, func, literal_column, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from controlplane.errors import LeaseLost, NotFound
from controlplane.events import repository as events
from controlplane.jobs.models import AttemptRow, JobRow
from controlplane.jobs.spec import AnySpec
from controlplane.jobs.states import ACTIVE, TRANSITIONS, JobState

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ID = re.compile(f"job_[{_ALPHABET}]{{20}}")


def new_job_id() -> str:
    """``job_``, 48 bits of milliseconds and 50 random bits: ids sort by age and cannot be guessed from another."""
    number = (time.time_ns() // 1_000_000 << 50) | secrets.randbits(50)
    digits = [_ALPHABET[number >> shift & 31] for shift in range(95, -1, -5)]
    return "job_" + "".join(digits)


async def insert_job(session: AsyncSession, spec: AnySpec, idempotency_key: str | None) -> JobRow | None:
    """A queued job and its first event; None when the idempotency key is taken."""
    statement = (
        insert(JobRow)
        .values(
            id=new_job_id(),
            name=spec.name,
            labels=spec.labels,
            spec=spec.model_dump(mode="json"),
            idempotency_key=idempotency_key,
            state=JobState.QUEUED,
            max_attempts=spec.max_attempts,
            num_rollouts=spec.planned_rollouts,
            waiting_for="the scheduler",
        )
        .on_conflict_do_nothing(index_elements=[JobRow.idempotency_key])
        .returning(JobRow)
    )
    job = (await session.scalars(statement)).one_or_none()
    if job is not None:
        await events.append(session, job.id, 0, type="job.queued", message="the job was submitted")
    return job


async def by_idempotency_key(session: AsyncSession, key: str) -> JobRow | None:
    return (await session.scalars(select(JobRow).where(JobRow.idempotency_key == key))).one_or_none()


async def get(session: AsyncSession, job_id: str) -> JobRow:
    check_id(job_id)
    return _found(job_id, (await session.scalars(select(JobRow).where(JobRow.id == job_id))).one_or_none())


async def lock(session: AsyncSession, job_id: str) -> JobRow:
    """The job, held until the transaction ends: whoever writes events or state does this first."""
    check_id(job_id)
    statement = select(JobRow).where(JobRow.id == job_id).with_for_update()
    return _found(job_id, (await session.scalars(statement)).one_or_none())


def check_id(job_id: str) -> None:
    """Raises NotFound for what cannot be an id, before it reaches Postgres, which refuses some characters."""
    if _ID.fullmatch(job_id) is None:
        raise NotFound(f"there is no job {job_id!r:.80}")


def _found(job_id: str, job: JobRow | None) -> JobRow:
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


async def require(session: AsyncSession, job_id: str) -> None:
    """Raises NotFound unless the job exists."""
    check_id(job_id)
    found = await session.scalar(select(JobRow.id).where(JobRow.id == job_id))
    if found is None:
        raise NotFound(f"there is no job {job_id}")


async def page(session: AsyncSession, *, after: str | None, limit: int, states: Sequence[JobState]) -> list[JobRow]:
    """Newest first, without their specs; ``after`` is the id of the last job of the page before."""
    statement = select(JobRow).options(defer(JobRow.spec, raiseload=True)).order_by(JobRow.id.desc()).limit(limit)
    if after is not None:
        statement = statement.where(JobRow.id < after)
    if states:
        statement = statement.where(JobRow.state.in_(list(states)))
    return list(await session.scalars(statement))


async def attempts(session: AsyncSession, job_id: str) -> list[AttemptRow]:
    statement = select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number)
    return list(await session.scalars(statement))


async def get_attempt(session: AsyncSession, job_id: str, number: int) -> AttemptRow | None:
    return await session.get(AttemptRow, (job_id, number))


async def transition(
    session: AsyncSession,
    job: JobRow,
    new: JobState,
    *,
    message: str,
    lease_token: str | None = None,
    level: Literal["info", "warning", "error"] = "info",
    data: Mapping[str, Any] | None = None,
    due_in_s: float = 0.0,
    values: Mapping[str, Any] | None = None,
) -> JobRow:
    """Move ``job`` on from the state it was loaded in: the only writer of ``state``.

    ``values`` are further columns to set. The event is written in the same transaction. Raises LeaseLost when
    the row is no longer in that state, or no longer under ``lease_token``; then nothing was written.
    """
    old = JobState(job.state)
    if new not in TRANSITIONS[old]:
        raise ValueError(f"a job cannot go from {old} to {new}")
    changes: dict[str, Any] = {
        "state": new,
        "due_at": func.now() + timedelta(seconds=due_in_s),
        **seen_change(),
        **(values or {}),
    }
    if new is not JobState.RUNNING:
        changes |= {"router_url": None, "served_model": None}
    if new.final:
        changes |= {"phase": None, "waiting_for": None, "finished_at": func.now()}
        changes |= {"lease_owner": None, "lease_token": None, "lease_until": None}
    statement = (
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.state == old, JobRow.attempt == job.attempt)
        .values(changes)
        .returning(JobRow)
        .execution_options(populate_existing=True)
    )
    if lease_token is not None:
        statement = statement.where(JobRow.lease_token == lease_token)
    moved = (await session.scalars(statement)).one_or_none()
    if moved is None:
        raise LeaseLost(f"{job.id} is no longer {old} as it was seen")
    details = {"from": old.value, "to": new.value, **(data or {})}
    await events.append(
        session, job.id, moved.attempt, type=f"job.{new.value}", message=message, level=level, data=details
    )
    return moved


async def note(session: AsyncSession, job_id: str, **values: Any) -> None:
    """Set columns that readers see, other than the state."""
    await session.execute(update(JobRow).where(JobRow.id == job_id).values(**values, **seen_change()))


async def note_if_unchanged(session: AsyncSession, job: JobRow, lease_token: str, **values: Any) -> None:
    """As :func:`note`, unless a reader would see an older word replace a newer one. Raises LeaseLost then."""
    statement = (
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.revision == job.revision, JobRow.lease_token == lease_token)
        .values(**values, **seen_change())
        .returning(JobRow.id)
    )
    if await session.scalar(statement) is None:
        raise LeaseLost(f"{job.id} has changed since it was seen")


def seen_change() -> dict[str, Any]:
    return {"revision": JobRow.revision + 1, "updated_at": func.now()}


async def insert_attempt(session: AsyncSession, job_id: str, number: int, sha256: bytes) -> None:
    await session.execute(insert(AttemptRow).values(job_id=job_id, number=number, token_sha256=sha256))


async def update_attempt(session: AsyncSession, job_id: str, number: int, **values: Any) -> None:
    statement = update(AttemptRow).where(AttemptRow.job_id == job_id, AttemptRow.number == number)
    await session.execute(statement.values(**values))


async def end_attempt(session: AsyncSession, job_id: str, number: int, reason: str | None, detail: str | None) -> None:
    """Close the attempt: its driver's further reports are refused as superseded."""
    await update_attempt(session, job_id, number, ended_at=func.clock_timestamp(), end_reason=reason, end_detail=detail)


async def claim_due(
    session: AsyncSession, *, owner: str, lease_s: float, limit: int, interval_s: float, running_interval_s: float
) -> list[tuple[str, str, datetime]]:
    """Lease jobs that are due and that nobody holds: their ids, lease tokens and the database's time.

    Each becomes due again by itself after its interval, or at once when someone sets ``due_at`` meanwhile.
    """
    due = (
        select(JobRow.id)
        .where(
            JobRow.state.in_([literal_column(f"'{state.value}'") for state in ACTIVE]),
            JobRow.due_at <= func.now(),
            or_(JobRow.lease_until.is_(None), JobRow.lease_until < func.now()),
        )
        .order_by(JobRow.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    interval = case((JobRow.state == JobState.RUNNING, running_interval_s), else_=interval_s)
    statement = (
        update(JobRow)
        .where(JobRow.id.in_(due.scalar_subquery()))
        .values(
            lease_owner=owner,
            lease_token=func.gen_random_uuid().cast(Text),
            lease_until=func.now() + timedelta(seconds=lease_s),
            due_at=func.now() + interval * timedelta(seconds=1),
        )
        .returning(JobRow.id, JobRow.lease_token, func.now())
        .execution_options(synchronize_session=False)
    )
    return [(row[0], row[1] or "", row[2]) for row in await session.execute(statement)]


async def renew_leases(session: AsyncSession, tokens: Sequence[str], lease_s: float) -> None:
    statement = update(JobRow).where(JobRow.lease_token.in_(tokens))
    await session.execute(
        statement.values(lease_until=func.now() + timedelta(seconds=lease_s)).execution_options(
            synchronize_session=False
        )
    )


async def release_lease(session: AsyncSession, lease_token: str, *, due_in_s: float | None) -> None:
    """Give a job back; ``due_in_s`` overrides when it is due, where the claim's interval does not fit."""
    values: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_until": None}
    if due_in_s is not None:
        values["due_at"] = func.now() + timedelta(seconds=due_in_s)
    statement = update(JobRow).where(JobRow.lease_token == lease_token).values(values)
    await session.execute(statement.execution_options(synchronize_session=False))
