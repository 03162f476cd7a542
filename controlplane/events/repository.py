"""Statements on events."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from controlplane.events.models import EventRow


async def append(
    session: AsyncSession,
    job_id: str,
    attempt: int,
    *,
    type: str,
    message: str,
    level: Literal["info", "warning", "error"] = "info",
    data: Mapping[str, Any] | None = None,
    seq: int | None = None,
    at: datetime | None = None,
) -> None:
    """Note an event. The caller holds the job's row, so that ids become visible in their order."""
    values = {
        "job_id": job_id,
        "attempt": attempt,
        "seq": seq,
        "at": at or func.clock_timestamp(),
        "level": level,
        "type": type,
        "message": message,
        "data": dict(data or {}),
    }
    await session.execute(insert(EventRow).values(values))


async def append_all(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        await session.execute(insert(EventRow).on_conflict_do_nothing(), [dict(row) for row in rows])


async def page(session: AsyncSession, job_id: str, *, after: int, limit: int) -> list[EventRow]:
    """Oldest first, from behind ``after``."""
    statement = select(EventRow).where(EventRow.job_id == job_id, EventRow.id > after)
    return list(await session.scalars(statement.order_by(EventRow.id).limit(limit)))
