"""Evaluations as rows: one per weight version and eval set, whatever the number of attempts it took."""

from datetime import datetime

from sqlalchemy import ForeignKey, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from controlplane.db import Base


class EvaluationRow(Base):
    __tablename__ = "evaluations"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    weight_version: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    attempt: Mapped[int]
    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    values: Mapped[dict[str, float | None]] = mapped_column(JSONB)
    """By name; null where the number was not finite."""
    samples_path: Mapped[str] = mapped_column(Text)
