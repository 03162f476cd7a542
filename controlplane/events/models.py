"""Events as rows: what happened to a job, append-only."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, String, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from controlplane.db import Base


class EventRow(Base):
    """``id`` is the readers' cursor. Writers hold the job's row, so a job's ids become visible in order."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    seq: Mapped[int | None]
    """Position in the attempt's reports; none for what the control plane itself noted."""
    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=text("now()"))
    level: Mapped[str] = mapped_column(String(16))
    type: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)

    __table_args__ = (UniqueConstraint("job_id", "attempt", "seq"), Index("ix_events_job_id_id", "job_id", "id"))
