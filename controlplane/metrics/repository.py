"""Statements on metrics."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from controlplane.metrics.models import MetricRow


async def put(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    """Store rollouts, each once: a later attempt's row replaces an earlier one's, never the reverse."""
    latest = {row["rollout_id"]: row for row in rows}
    if not latest:
        return
    statement = insert(MetricRow).values(list(latest.values()))
    new = statement.excluded
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[MetricRow.job_id, MetricRow.rollout_id],
            set_={
                "attempt": new.attempt,
                "at": new.at,
                "weight_version": new.weight_version,
                "values": new["values"],
            },
            where=MetricRow.attempt <= new.attempt,
        )
    )


async def page(session: AsyncSession, job_id: str, *, after: int, limit: int) -> list[MetricRow]:
    """In order of rollouts, from behind ``after``."""
    statement = select(MetricRow).where(MetricRow.job_id == job_id, MetricRow.rollout_id > after)
    return list(await session.scalars(statement.order_by(MetricRow.rollout_id).limit(limit)))
