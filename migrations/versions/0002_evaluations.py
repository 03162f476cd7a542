"""Evaluations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = sa.ForeignKey("jobs.id", name="fk_evaluations_job_id", ondelete="CASCADE")
    op.create_table(
        "evaluations",
        sa.Column("job_id", sa.Text, key, nullable=False),
        sa.Column("weight_version", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", TIMESTAMP(timezone=True), nullable=False),
        sa.Column("values", JSONB, nullable=False),
        sa.Column("samples_path", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "weight_version", "name", name="pk_evaluations"),
    )


def downgrade() -> None:
    op.drop_table("evaluations")
