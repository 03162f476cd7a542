"""Metrics as rows: one per finished rollout, whatever the number of attempts it took."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from controlplane.db import Base


class MetricRow(Base):
    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    rollout_id: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    weight_version: Mapped[int]
    values: Mapped[dict[str, float | None]] = mapped_column(JSONB)
    """By name; null where the number was not finite, which JSON cannot say."""
