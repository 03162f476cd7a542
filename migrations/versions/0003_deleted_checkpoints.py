"""Checkpoints that are no longer there."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("deleted_at", TIMESTAMP(timezone=True)))


def downgrade() -> None:
    op.drop_column("checkpoints", "deleted_at")
