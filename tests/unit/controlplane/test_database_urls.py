"""Which database URLs are accepted, and which errors mean that the database is away."""

import asyncpg
import pytest
from sqlalchemy.exc import OperationalError, ProgrammingError

from controlplane.db import dsn, is_away, migrations_directory


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"])
def test_every_spelling_of_a_postgres_url_is_accepted(scheme: str) -> None:
    assert dsn(f"{scheme}://me@host/name") == "postgresql://me@host/name"
    assert dsn(f"{scheme}:///name?host=/run/pg&user=me") == "postgresql:///name?host=/run/pg&user=me"


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://h/d", "host/name", ""])
def test_anything_else_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match="ROLLWAY_DATABASE_URL"):
        dsn(url)


def test_only_connection_trouble_counts_as_the_database_being_away() -> None:
    assert is_away(ConnectionRefusedError())
    assert is_away(asyncpg.CannotConnectNowError("starting up"))
    assert is_away(asyncpg.AdminShutdownError("shutting down"))
    assert is_away(OperationalError("SELECT 1", None, ConnectionResetError(), connection_invalidated=True))
    assert not is_away(asyncpg.UniqueViolationError("twice"))
    assert not is_away(ProgrammingError("SELEC 1", None, Exception("syntax error")))
    assert not is_away(ValueError())


def test_the_migrations_are_found() -> None:
    assert (migrations_directory() / "versions").is_dir()
