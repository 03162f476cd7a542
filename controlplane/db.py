"""The way to Postgres: one pool, short transactions, and errors that say whether the database is there."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import orjson
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import NullPool

from controlplane.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0
POOL_WAIT_S = 10.0
# Any number will do, so long as nothing else in this database locks the same one.
_MIGRATION_LOCK = 0x526F6C6C

# SQLSTATE classes and codes that mean "not now": connection trouble, shutdown, start-up, too many clients.
_AWAY = ("08", "57P01", "57P02", "57P03", "53300")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def dsn(database_url: str) -> str:
    """The URL as asyncpg reads it. ``postgresql+driver://`` and ``postgres://`` are accepted, sockets too:
    ``postgresql:///name?host=/directory&user=me``. Raises ValueError for anything that is not Postgres."""
    scheme, separator, rest = database_url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ValueError(f"ROLLWAY_DATABASE_URL must begin with postgresql://, not {scheme}")
    return f"postgresql://{rest}"


async def connect(database_url: str) -> Any:
    """An ``asyncpg.Connection``; asyncpg comes without types. Raises DatabaseUnavailable, whatever is in the way: the
    network, the server, or a URL that names no database or user there."""
    try:
        opened = cast("Any", asyncpg).connect(
            dsn(database_url), timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S
        )
        return await opened
    except (OSError, ValueError, OverflowError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable(f"no connection to the database: {_first_line(error)}") from error


def create_engine(database_url: str, **options: Any) -> AsyncEngine:
    """An engine whose connections asyncpg opens itself, so that every form of URL that it reads works."""

    async def creator() -> Any:
        return await connect(database_url)

    # Postgres says 1e30 as an integer of 31 digits. The standard library reads that as one, which nothing writes again.
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=creator, json_deserializer=orjson.loads, **options
    )


class Database:
    """Sessions with short lives. Every error that means "the database is away" becomes DatabaseUnavailable."""

    def __init__(self, database_url: str, *, pool_size: int = 10) -> None:
        self.url = dsn(database_url)
        self._engine = create_engine(database_url, pool_size=pool_size, max_overflow=10, pool_timeout=POOL_WAIT_S)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        # Reads need no transaction: on an autocommit connection each is one round trip.
        self._reads = async_sessionmaker(
            self._engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False
        )

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncSession]:
        """A session in a transaction: committed at the end, rolled back by an exception."""
        with translated():
            async with self._sessions.begin() as session:
                yield session

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncSession]:
        """A session for statements that only read."""
        with translated():
            async with self._reads() as session:
                yield session

    async def ping(self) -> None:
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self._engine.dispose()


class Lookup:
    """One statement that is asked very often, on a connection of its own: a tenth of a session's cost.

    For one asker at a time.
    """

    def __init__(self, database_url: str, statement: str) -> None:
        self._url = database_url
        self._statement = statement
        self._connection: Any = None

    async def fetch(self, *arguments: Any) -> list[Any]:
        """The rows. A connection that was lost since the last time is opened anew, once."""
        with translated():
            reused = self._connection is not None and not self._connection.is_closed()
            try:
                return await self._fetch(arguments)
            except Exception as error:
                if not (reused and is_away(error)):
                    raise
            return await self._fetch(arguments)

    async def _fetch(self, arguments: tuple[Any, ...]) -> list[Any]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url)
        try:
            return await self._connection.fetch(self._statement, *arguments)
        except BaseException:  # whatever it was, the connection may be in the middle of something
            self._connection.terminate()
            self._connection = None
            raise

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class translated:
    """Turns the drivers' ways of saying "no database" into DatabaseUnavailable."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and is_away(error):
            raise DatabaseUnavailable(f"the database does not answer: {_first_line(error)}") from error


def is_away(error: BaseException) -> bool:
    """Whether ``error`` means that the database cannot be reached, rather than that it refused a statement."""
    if isinstance(error, PoolTimeout):
        return True
    if isinstance(error, DBAPIError):
        code = str(getattr(error.orig, "sqlstate", None) or "")
        return error.connection_invalidated or code.startswith(_AWAY)
    if isinstance(error, asyncpg.PostgresError):
        return str(getattr(error, "sqlstate", None) or "").startswith(_AWAY)
    # asyncpg's word for a value that it cannot send is an InterfaceError too, and a ValueError.
    return isinstance(error, OSError | asyncpg.InterfaceError) and not isinstance(error, ValueError)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def migrations_directory() -> Path:
    """In the installed package the migrations lie inside it, in a checkout beside it."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "migrations", here.parent / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    raise FileNotFoundError(f"no migrations in {here} or beside it: the installation is incomplete")


def migrate(database_url: str) -> None:
    """Bring the schema up to date. Two callers at once are safe: the second waits and finds nothing to do.

    Runs its own event loop: from a coroutine, call it with ``asyncio.to_thread``. Raises DatabaseUnavailable.
    """
    with translated():
        try:
            asyncio.run(_migrate(database_url))
        except CommandError as error:  # a revision that these migrations do not know, say
            raise DatabaseUnavailable(f"another version of Rollway wrote the database: {error}") from error


async def _migrate(database_url: str) -> None:
    engine = create_engine(database_url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    config.attributes["connection"] = connection
    # A lock of the session, not of a transaction: released when the connection ends, however it ends.
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
    connection.commit()
    command.upgrade(config, "head")
    connection.commit()


def main() -> None:
    url = os.environ.get("ROLLWAY_DATABASE_URL")
    if not url:
        sys.exit("Set ROLLWAY_DATABASE_URL to the database to migrate (the embedded one is migrated by rollway up).")
    try:
        migrate(url)
    except DatabaseUnavailable as error:
        sys.exit(str(error))
    print("The database is up to date.")


if __name__ == "__main__":
    main()
