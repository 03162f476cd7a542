"""The schema: migrated by several callers at once, and the same as the models say."""

import asyncio
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.pool import NullPool

import controlplane.app  # every model
from controlplane.db import Base, connect, create_engine, migrate
from controlplane.errors import DatabaseUnavailable
from tests.service.postgres import PostgresServer


async def test_callers_at_once_migrate_a_fresh_database_once(postgres: PostgresServer) -> None:
    admin: Any = await connect(postgres.url("postgres"))
    await admin.execute("CREATE DATABASE fresh")
    try:
        url = postgres.url("fresh")
        await asyncio.gather(*(asyncio.to_thread(migrate, url) for _ in range(3)))
        connection: Any = await connect(url)
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 0
        await connection.close()
    finally:
        await admin.execute("DROP DATABASE fresh WITH (FORCE)")
        await admin.close()


async def test_a_database_that_another_version_wrote_is_refused(postgres: PostgresServer, database_url: str) -> None:
    connection: Any = await connect(database_url)
    await connection.execute("UPDATE alembic_version SET version_num = 'later'")
    await connection.close()
    with pytest.raises(DatabaseUnavailable, match="another version of Rollway"):
        await asyncio.to_thread(migrate, database_url)


async def test_what_is_in_the_way_of_a_connection_is_said(postgres: PostgresServer) -> None:
    with pytest.raises(DatabaseUnavailable, match='no connection to the database: database "nowhere" does not exist'):
        await asyncio.to_thread(migrate, postgres.url("nowhere"))
    with pytest.raises(DatabaseUnavailable, match='role "nobody" does not exist'):
        await connect(postgres.url("postgres").replace("user=rollway", "user=nobody"))


async def test_the_migrations_lead_to_what_the_models_say(database_url: str) -> None:
    assert controlplane.app

    def differences(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)

    engine = create_engine(database_url, poolclass=NullPool)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()
