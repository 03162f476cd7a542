"""The embedded Postgres itself: started, found, killed, recovered, refused."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.db import connect
from controlplane.local import postgres, processes
from controlplane.local.errors import LocalError
from controlplane.local.files import short_directory, write_json
from controlplane.settings import Settings


def settings_of(home: Path) -> Settings:
    return Settings(home, None, None, None, "127.0.0.1", 0, None, home / "runs")


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    home = Path(tempfile.mkdtemp(prefix="rollway-test-", dir="/tmp"))
    settings = settings_of(home)
    yield settings
    postgres.stop(settings)
    postgres.remove(settings)
    shutil.rmtree(home)
    assert not short_directory(home).exists()


async def execute(url: str, statement: str) -> Any:
    connection = await connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_a_server_is_started_once_and_found_after_that(settings: Settings) -> None:
    first = await start(settings)
    again = await start(settings)
    assert (first.started, again.started) == (True, False)
    assert again.pid == first.pid and postgres.find(settings) == again
    assert (
        await execute(first.url, "SELECT current_database() || ' in ' || current_setting('TimeZone')")
        == "rollway in UTC"
    )


async def test_it_listens_on_its_socket_alone_which_only_its_user_can_reach(settings: Settings) -> None:
    server = await start(settings)
    assert await execute(server.url, "SELECT current_setting('listen_addresses')") == ""
    sockets = short_directory(settings.home) / "pg"
    assert sockets.stat().st_mode & 0o077 == 0
    assert server.data.stat().st_mode & 0o077 == 0
    assert sockets.stat().st_uid == server.data.stat().st_uid != 0


async def test_what_was_committed_survives_a_kill(settings: Settings) -> None:
    server = await start(settings)
    await execute(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    open_connection = await connect(server.url)
    os.kill(server.pid, signal.SIGKILL)
    recovered = await start(settings)
    assert recovered.started and recovered.pid != server.pid
    assert await execute(recovered.url, "SELECT answer FROM kept") == 42
    open_connection.terminate()


async def test_orphans_of_a_kill_do_not_hold_the_data_hostage(settings: Settings) -> None:
    server = await start(settings)
    orphan = await connect(server.url)
    backend = await orphan.fetchval("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)  # it cannot notice that its parent is gone
    os.kill(server.pid, signal.SIGKILL)
    recovered = await start(settings)
    assert await execute(recovered.url, "SELECT answer FROM kept") == 42
    assert processes.identify(backend) is None
    orphan.terminate()


async def test_a_pid_file_that_names_another_process_is_not_believed(settings: Settings) -> None:
    server = await start(settings)
    pid_file = server.data / "postmaster.pid"
    text = pid_file.read_text()
    os.kill(server.pid, signal.SIGKILL)
    identity = processes.find(lambda pid: processes.works_in(pid, server.data))
    processes.wait_gone(identity, 10.0)
    pid_file.write_text(text.replace(str(server.pid), str(os.getpid()), 1))
    os.chown(pid_file, server.data.stat().st_uid, server.data.stat().st_gid)
    assert postgres.find(settings) is None
    recovered = await start(settings)
    assert await execute(recovered.url, "SELECT answer FROM kept") == 42


async def test_two_homes_run_side_by_side_and_end_alone(settings: Settings) -> None:
    first = await start(settings)
    home = Path(tempfile.mkdtemp(prefix="rollway-test-", dir="/tmp"))
    other = settings_of(home)
    try:
        second = await start(other)
        assert second.url != first.url and second.data != first.data
        assert postgres.stop(other)
        assert postgres.find(other) is None and not postgres.stop(other)
        assert await execute(first.url, "SELECT answer FROM kept") == 42
    finally:
        postgres.stop(other)
        postgres.remove(other)
        shutil.rmtree(home)


async def test_stopping_ends_every_process_of_the_server(settings: Settings) -> None:
    server = await start(settings)
    assert postgres.stop(settings)
    assert processes.find(lambda pid: processes.works_in(pid, server.data)) == []


async def test_a_server_that_cannot_start_says_why_in_its_own_words(settings: Settings) -> None:
    server = await start(settings)
    postgres.stop(settings)
    control = server.data / "global" / "pg_control"
    control.rename(control.with_suffix(".away"))
    try:
        with pytest.raises(LocalError, match=r"(?s)Postgres ended.*pg_control"):
            await start(settings)
    finally:
        control.with_suffix(".away").rename(control)
    assert await execute((await start(settings)).url, "SELECT answer FROM kept") == 42


def test_a_missing_release_is_named(settings: Settings, tmp_path: Path) -> None:
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9.6\n")
    user = postgres._unprivileged().name if os.geteuid() == 0 else os.environ["USER"]
    if os.geteuid() == 0:
        shutil.chown(data.parent, user)
    write_json(tmp_path / "postgres.json", {"base": str(data.parent), "user": user})
    with pytest.raises(LocalError, match=r"no Postgres 9 server.*release"):
        postgres.start(settings_of(tmp_path))
    shutil.rmtree(short_directory(tmp_path))


async def start(settings: Settings) -> postgres.PostgresHandle:
    import asyncio

    return await asyncio.to_thread(postgres.start, settings)
