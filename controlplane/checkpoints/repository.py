"""Statements on checkpoints."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from controlplane.checkpoints.models import CheckpointRow


async def put(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    """Store checkpoints; one written again to the same path replaces what was known of it."""
    latest = {(row["format"], row["path"]): row for row in rows}
    if not latest:
        return
    statement = insert(CheckpointRow).values(list(latest.values()))
    new = statement.excluded
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[CheckpointRow.job_id, CheckpointRow.format, CheckpointRow.path],
            set_={
                "rollout_id": new.rollout_id,
                "weight_version": new.weight_version,
                "at": new.at,
                "deleted_at": None,
            },
        )
    )


async def note_deleted(session: AsyncSession, job_id: str, format: str, path: str, at: datetime) -> None:
    """Note that it is no longer there; the row stays. Nothing to note of one that was never stored."""
    statement = update(CheckpointRow).where(
        CheckpointRow.job_id == job_id,
        CheckpointRow.format == format,
        CheckpointRow.path == path,
        CheckpointRow.deleted_at.is_(None),
    )
    await session.execute(statement.values(deleted_at=at))


async def of_job(session: AsyncSession, job_id: str) -> list[CheckpointRow]:
    """Those that are there, oldest first."""
    statement = select(CheckpointRow).where(CheckpointRow.job_id == job_id, CheckpointRow.deleted_at.is_(None))
    return list(await session.scalars(statement.order_by(CheckpointRow.at, CheckpointRow.path)))
