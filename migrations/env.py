"""Alembic's entry. The connection comes from :func:`controlplane.db.migrate`, or is opened from the environment."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.pool import NullPool

import controlplane.auth
import controlplane.checkpoints.models
import controlplane.evaluations.models
import controlplane.events.models
import controlplane.jobs.models
import controlplane.metrics.models  # noqa: F401
from controlplane.db import Base, create_engine


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_from_environment() -> None:
    engine = create_engine(os.environ["ROLLWAY_DATABASE_URL"], poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    asyncio.run(run_from_environment())
