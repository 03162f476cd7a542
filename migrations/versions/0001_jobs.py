"""Jobs, attempts, events, metrics and checkpoints."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = TIMESTAMP(timezone=True)
NOW = sa.text("now()")
ACTIVE = "state IN ('queued', 'starting', 'running', 'stopping')"


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("labels", JSONB, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("wanted", sa.String(16), nullable=False, server_default="run"),
        sa.Column("cancel_requested_at", TIME),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(32)),
        sa.Column("waiting_for", sa.Text),
        sa.Column("end_reason", sa.String(32)),
        sa.Column("end_detail", sa.Text),
        sa.Column("router_url", sa.Text),
        sa.Column("served_model", sa.Text),
        sa.Column("rollout_id", sa.Integer),
        sa.Column("num_rollouts", sa.Integer, nullable=False),
        sa.Column("weight_version", sa.Integer),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_token", sa.Text),
        sa.Column("lease_until", TIME),
        sa.Column("due_at", TIME, nullable=False, server_default=NOW),
        sa.Column("revision", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("updated_at", TIME, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("idempotency_key", name="uq_jobs_idempotency_key"),
    )
    op.create_index("ix_jobs_due", "jobs", ["due_at"], postgresql_where=sa.text(ACTIVE))
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
    op.create_table(
        "attempts",
        _job_id("attempts"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("token_sha256", sa.LargeBinary, nullable=False),
        sa.Column("last_seq", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_heartbeat_at", TIME),
        sa.Column("started_at", TIME, nullable=False, server_default=NOW),
        sa.Column("driver_started_at", TIME),
        sa.Column("ended_at", TIME),
        sa.Column("end_reason", sa.String(32)),
        sa.Column("end_detail", sa.Text),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        _job_id("events"),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer),
        sa.Column("at", TIME, nullable=False, server_default=NOW),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", JSONB, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint("job_id", "attempt", "seq", name="uq_events_job_id_attempt_seq"),
    )
    op.create_index("ix_events_job_id_id", "events", ["job_id", "id"])
    op.create_table(
        "metrics",
        _job_id("metrics"),
        sa.Column("rollout_id", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("weight_version", sa.Integer, nullable=False),
        sa.Column("values", JSONB, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "rollout_id", name="pk_metrics"),
    )
    op.create_table(
        "checkpoints",
        _job_id("checkpoints"),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("rollout_id", sa.Integer, nullable=False),
        sa.Column("weight_version", sa.Integer, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "format", "path", name="pk_checkpoints"),
    )


def _job_id(table: str) -> sa.Column[str]:
    key = sa.ForeignKey("jobs.id", name=f"fk_{table}_job_id", ondelete="CASCADE")
    return sa.Column("job_id", sa.Text, key, nullable=False)


def downgrade() -> None:
    for table in ("checkpoints", "metrics", "events", "attempts", "jobs", "installation"):
        op.drop_table(table)
