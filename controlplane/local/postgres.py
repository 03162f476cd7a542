"""The embedded Postgres: one server per home, reached over a unix socket in a directory of its own."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from controlplane.local import processes
from controlplane.local.errors import LocalError
from controlplane.local.files import (
    log_path,
    log_tail,
    make_short_directory,
    open_log,
    read_json,
    remove_short_directory,
    short_directory,
    tag,
    write_json,
)
from controlplane.local.postgres_binaries import ENVIRONMENT, Binaries, ServerUser, find_binaries
from controlplane.local.processes import ProcessId, identify
from controlplane.settings import Settings

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_SUPERUSER = "rollway"
_DATABASE = "rollway"
_MIN_FREE_BYTES = 128 << 20
_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "huge_pages": "off",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


@dataclass(frozen=True, slots=True)
class PostgresHandle:
    url: str
    pid: int
    data: Path
    started: bool
    """False: it was running already."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where this home's server lives; the user is the data directory's owner."""

    home: Path
    base: Path
    sockets: Path
    user: ServerUser

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def url(self) -> str:
        return f"postgresql:///{_DATABASE}?host={self.sockets}&user={_SUPERUSER}"

    @property
    def release(self) -> int | None:
        """The release that wrote the data; None when there is none yet."""
        try:
            return int((self.data / "PG_VERSION").read_text().strip().partition(".")[0])
        except FileNotFoundError:
            return None


def start(settings: Settings, *, timeout_s: float = START_TIMEOUT_S) -> PostgresHandle:
    """Start this home's server, or find it running. Data that a crash left behind is recovered.

    Raises LocalError: no server to run, no room or right to write, or not ready within ``timeout_s``.
    """
    place = _prepared_place(settings.home)
    # A server that is just ending is not one that runs: it is waited for, and then started again.
    if (running := _postmaster(place)) and _wait_ready(place, running, since=0, timeout_s=timeout_s):
        return PostgresHandle(place.url, running.pid, place.data, started=False)
    binaries = find_binaries(place.user, major=place.release)
    if place.release is None:
        _initialise(place, binaries)
    _clear_remains(place)
    running = _launch(place, binaries, timeout_s)
    return PostgresHandle(place.url, running.pid, place.data, started=True)


def find(settings: Settings) -> PostgresHandle | None:
    """The running server, if there is one."""
    place = _known_place(settings.home)
    running = place and _postmaster(place)
    return PostgresHandle(place.url, running.pid, place.data, started=False) if place and running else None


def stop(settings: Settings) -> bool:
    """Shut the server down (open transactions are rolled back) and end whatever is left of it. False: none ran."""
    place = _known_place(settings.home)
    if place is None:
        return False
    running = _postmaster(place)
    if running is not None:
        processes.send([running], signal.SIGINT)
        if processes.wait_gone([running], STOP_TIMEOUT_S):
            processes.end([running], what="Postgres", signum=signal.SIGQUIT)
    _clear_remains(place)
    shutil.rmtree(place.sockets, ignore_errors=True)
    remove_short_directory(settings.home)
    return running is not None


def remove(settings: Settings) -> None:
    """Delete the data for good. The server must be stopped."""
    place = _known_place(settings.home)
    if place is not None:
        if find(settings):
            raise LocalError("Postgres runs: stop it before its data is removed")
        shutil.rmtree(place.base)


def _known_place(home: Path) -> _Place | None:
    """As recorded in the home at first use."""
    known = read_json(home / "postgres.json")
    if known is None:
        return None
    user = _user(known["user"])
    if user.foreign and os.geteuid() != 0:
        raise LocalError(f"the database of {home} belongs to user {user.name} and was made by root: go on as root")
    return _Place(home, Path(known["base"]), short_directory(home) / "pg", user)


def _prepared_place(home: Path) -> _Place:
    place = _known_place(home)
    if place is None:
        if os.geteuid() == 0:
            user = _unprivileged()
            base = home / "postgres" if _let_through(home, user) else Path(f"/var/lib/rollway-{tag(home)}")
        else:
            base, user = home / "postgres", _user(pwd.getpwuid(os.geteuid()).pw_name)
        write_json(home / "postgres.json", {"base": str(base), "user": user.name})
        place = _Place(home, base, short_directory(home) / "pg", user)
    make_short_directory(home)
    for directory in (place.base, place.sockets):
        _make_owned(directory, place.user)
    return place


def _let_through(home: Path, user: ServerUser) -> bool:
    """Whether ``user``, who is not root, can reach what lies in root's ``home``. A home that is closed to everyone is
    opened to the user's group, for passing through; the directories above it are left as they are."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = home.stat()
    if found.st_uid == 0 and found.st_mode & 0o077 == 0:
        os.chown(home, 0, user.gid)
        home.chmod(0o710)
    return user.run(["/bin/sh", "-c", 'cd "$1"', "sh", str(home)], timeout_s=10).returncode == 0


def _make_owned(directory: Path, user: ServerUser) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.is_symlink():
            raise LocalError(f"{directory} is a symbolic link: remove it")
        if directory.stat().st_uid != user.uid:
            if os.geteuid() != 0 or any(directory.iterdir()):
                raise LocalError(f"{directory} is not owned by user {user.name}: fix its owner, or remove it")
            os.chown(directory, user.uid, user.gid)
        directory.chmod(0o700)
    except OSError as error:
        raise LocalError(f"cannot prepare {directory} for the database: {error.strerror}") from error


def _user(name: str) -> ServerUser:
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise LocalError(f"user {name}, whom the database belongs to, does not exist any more") from error
    return ServerUser(name, entry.pw_uid, entry.pw_gid)


def _unprivileged() -> ServerUser:
    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            return _user(name)
    raise LocalError("Postgres does not run as root, and there is neither a user postgres nor nobody: add one")


def _initialise(place: _Place, binaries: Binaries) -> None:
    free = shutil.disk_usage(place.base).free
    if free < _MIN_FREE_BYTES:
        raise LocalError(
            f"no room for a database in {place.base}: {free >> 20} MB free, {_MIN_FREE_BYTES >> 20} needed"
        )
    # A kill in the middle leaves no half-made data directory: it gets its name once it is whole.
    fresh = place.base / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    command = [str(binaries.directory / "initdb"), "-D", str(fresh), "-U", _SUPERUSER, "--auth=trust"]
    command += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
    try:
        made = place.user.run(command, timeout_s=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalError(f"initdb of {binaries.directory} did not run: {error}") from error
    if made.returncode != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        raise LocalError(f"initdb could not create {place.data}: {_explained(made.stderr)}")
    fresh.rename(place.data)


def _launch(place: _Place, binaries: Binaries, timeout_s: float) -> ProcessId:
    command = [str(binaries.directory / "postgres"), "-D", str(place.data), "-k", str(place.sockets)]
    for name, value in _OPTIONS.items():
        command += ["-c", f"{name}={value}"]
    log = open_log(place.home, "postgres")
    since = os.fstat(log).st_size
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives this command and its terminal
            cwd="/",
            env=ENVIRONMENT,
            user=place.user.uid if place.user.foreign else None,
            group=place.user.gid if place.user.foreign else None,
            extra_groups=[] if place.user.foreign else None,
        )
    except OSError as error:
        raise LocalError(f"cannot run {command[0]} as user {place.user.name}: {error.strerror}") from error
    finally:
        os.close(log)
    process = identify(server.pid)
    if process is None:
        raise LocalError(f"Postgres ended at once: {_explained(log_tail(place.home, 'postgres', since=since))}")
    if not _wait_ready(place, process, since=since, timeout_s=timeout_s):
        raise LocalError(f"Postgres ended: {_explained(log_tail(place.home, 'postgres', since=since))}")
    return process


def _wait_ready(place: _Place, process: ProcessId, *, since: int, timeout_s: float) -> bool:
    """Wait until it answers and has our database; False when it ended instead."""
    deadline = time.monotonic() + timeout_s
    refusal = "it has not opened its socket"
    while time.monotonic() < deadline:
        if not process.alive:
            return False
        if (place.sockets / ".s.PGSQL.5432").exists():
            try:
                asyncio.run(_ensure_database(place))
                return True
            except OSError as error:
                refusal = str(error)
        time.sleep(0.03)
    last = log_tail(place.home, "postgres", since=since)
    raise LocalError(
        f"Postgres was not ready within {timeout_s:g} s: {refusal}; {log_path(place.home, 'postgres')}:\n{last}"
    )


async def _ensure_database(place: _Place) -> None:
    """Raises ConnectionError while the server does not take connections yet."""
    import asyncpg  # pyright: ignore[reportMissingTypeStubs]

    try:
        connection = await asyncpg.connect(host=str(place.sockets), user=_SUPERUSER, database="postgres", timeout=5)  # pyright: ignore
        try:
            there = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE)  # pyright: ignore
            if there is None:
                await connection.execute(f"CREATE DATABASE {_DATABASE}")  # pyright: ignore
        finally:
            await connection.close(timeout=5)  # pyright: ignore
    except (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error
    except asyncpg.PostgresError as error:
        raise LocalError(f"Postgres refused to create its database: {error}") from error


def _postmaster(place: _Place) -> ProcessId | None:
    """The running server: the process that its pid file names, if it really works on this data."""
    try:
        pid = int((place.data / "postmaster.pid").read_text().partition("\n")[0])
    except (FileNotFoundError, ValueError):
        return None
    # Every server process works in its data directory; a later process with the same number does not.
    return identify(pid) if processes.works_in(pid, place.data) else None


def _clear_remains(place: _Place) -> None:
    """After a SIGKILL: end the orphans, who hold the shared memory, and remove the pid files, whose number another
    process may have by now."""
    orphans = processes.find(lambda pid: processes.works_in(pid, place.data))
    if left := processes.wait_gone(orphans, 3.0):
        processes.end(left, what="a process of the database", signum=signal.SIGQUIT, grace_s=5.0)
    for remains in (place.data / "postmaster.pid", place.sockets / ".s.PGSQL.5432.lock"):
        remains.unlink(missing_ok=True)


def _explained(output: str) -> str:
    text = output.strip()
    lowered = text.lower()
    for sign, advice in (
        ("no space left", "the disk is full; free some room"),
        ("could not bind", "its socket is in use by another server"),
        ("permission denied", "a directory is closed to the database's user"),
        ("incompatible with server", "the data was written by another release of Postgres"),
        ("shared memory", "the kernel gave it no shared memory, see `ipcs -m` and /proc/sys/kernel/shm*"),
    ):
        if sign in lowered:
            return f"{advice}:\n{text}"
    return text
