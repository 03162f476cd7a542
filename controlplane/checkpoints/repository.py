"""Statements on checkpoints."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
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
            set_={"rollout_id": new.rollout_id, "weight_version": new.weight_version, "at": new.at},
        )
    )


async def of_job(session: AsyncSession, job_id: str) -> list[CheckpointRow]:
    """Oldest first."""
    statement = select(CheckpointRow).where(CheckpointRow.job_id == job_id)
    return list(await session.scalars(statement.order_by(CheckpointRow.at, CheckpointRow.path)))
