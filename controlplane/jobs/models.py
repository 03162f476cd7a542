"""Jobs and their attempts as rows."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from controlplane.db import Base
from controlplane.jobs.states import ACTIVE

TIME = TIMESTAMP(timezone=True)


class JobRow(Base):
    """One job. ``state`` is written by :func:`controlplane.jobs.repository.transition` alone."""

    __tablename__ = "jobs"

    # Ids sort by age; the C collation makes Postgres agree with Python about that.
    id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    name: Mapped[str | None] = mapped_column(Text)
    labels: Mapped[dict[str, str]] = mapped_column(JSONB)
    spec: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """The resolved spec, whole."""
    idempotency_key: Mapped[str | None] = mapped_column(Text, unique=True)

    state: Mapped[str] = mapped_column(String(16))
    wanted: Mapped[str] = mapped_column(String(16), server_default="run")
    cancel_requested_at: Mapped[datetime | None] = mapped_column(TIME)
    attempt: Mapped[int] = mapped_column(server_default="0")
    """Number of the latest attempt; 0 before the first."""
    max_attempts: Mapped[int]
    phase: Mapped[str | None] = mapped_column(String(32))
    waiting_for: Mapped[str | None] = mapped_column(Text)
    end_reason: Mapped[str | None] = mapped_column(String(32))
    end_detail: Mapped[str | None] = mapped_column(Text)

    router_url: Mapped[str | None] = mapped_column(Text)
    served_model: Mapped[str | None] = mapped_column(Text)
    rollout_id: Mapped[int | None]
    """The last finished rollout."""
    num_rollouts: Mapped[int]
    weight_version: Mapped[int | None]

    lease_owner: Mapped[str | None] = mapped_column(Text)
    lease_token: Mapped[str | None] = mapped_column(Text)
    lease_until: Mapped[datetime | None] = mapped_column(TIME)
    due_at: Mapped[datetime] = mapped_column(TIME, server_default=text("now()"))
    """When the reconciler should look again; whoever changes something that it must act upon sets it to now."""

    revision: Mapped[int] = mapped_column(BigInteger, server_default="1")
    """Grows with every change that a reader can see: what the ETag is made of."""
    created_at: Mapped[datetime] = mapped_column(TIME, server_default=text("now()"))
    started_at: Mapped[datetime | None] = mapped_column(TIME)
    finished_at: Mapped[datetime | None] = mapped_column(TIME)
    updated_at: Mapped[datetime] = mapped_column(TIME, server_default=text("now()"))

    __table_args__ = (
        Index(
            "ix_jobs_due",
            "due_at",
            postgresql_where=text(f"state IN ({', '.join(repr(state.value) for state in ACTIVE)})"),
        ),
        Index("ix_jobs_state_id", "state", "id"),
    )


class AttemptRow(Base):
    """One run of a job: one driver, one token, one sequence of reports."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    token_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    last_seq: Mapped[int] = mapped_column(server_default="0")
    """Every report up to this one is stored; of an attempt that has ended, every fact, whoever delivered it."""
    last_heartbeat_at: Mapped[datetime | None] = mapped_column(TIME)
    started_at: Mapped[datetime] = mapped_column(TIME, server_default=text("now()"))
    driver_started_at: Mapped[datetime | None] = mapped_column(TIME)
    """When the cluster accepted the driver; before that, starting it (again) is still to be done."""
    ended_at: Mapped[datetime | None] = mapped_column(TIME)
    end_reason: Mapped[str | None] = mapped_column(String(32))
    end_detail: Mapped[str | None] = mapped_column(Text)
