"""Statements on evaluations."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from controlplane.evaluations.models import EvaluationRow


async def put(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    """Store evaluations, each once: a later attempt's row replaces an earlier one's, never the reverse."""
    latest = {(row["weight_version"], row["name"]): row for row in rows}
    if not latest:
        return
    statement = insert(EvaluationRow).values(list(latest.values()))
    new = statement.excluded
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[EvaluationRow.job_id, EvaluationRow.weight_version, EvaluationRow.name],
            set_={
                "attempt": new.attempt,
                "at": new.at,
                "values": new["values"],
                "samples_path": new.samples_path,
            },
            where=EvaluationRow.attempt <= new.attempt,
        )
    )


async def page(session: AsyncSession, job_id: str, *, after: int, limit: int) -> list[EvaluationRow]:
    """In order of weight versions, from behind ``after``; all sets of the last version are on the page."""
    versions = (
        select(EvaluationRow.weight_version)
        .where(EvaluationRow.job_id == job_id, EvaluationRow.weight_version > after)
        .distinct()
        .order_by(EvaluationRow.weight_version)
        .limit(limit)
    )
    statement = select(EvaluationRow).where(EvaluationRow.job_id == job_id, EvaluationRow.weight_version.in_(versions))
    return list(await session.scalars(statement.order_by(EvaluationRow.weight_version, EvaluationRow.name)))
