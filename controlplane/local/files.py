"""Where a local installation keeps its things, and how its small files are written."""

import fcntl
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from controlplane.local.errors import LocalError

_LOG_LIMIT = 32 << 20


def tag(home: Path) -> str:
    """A short name of this home for places outside of it."""
    return hashlib.sha256(f"{os.getuid()}:{home}".encode()).hexdigest()[:10]


def short_directory(home: Path) -> Path:
    """A directory of this home alone whose path is short: that of a unix socket has at most 107 bytes."""
    return Path("/tmp") / f"rollway-{tag(home)}"


def make_short_directory(home: Path) -> Path:
    directory = short_directory(home)
    make_private(directory, mode=0o711)  # the database's user must be able to pass through
    return directory


def remove_short_directory(home: Path) -> None:
    """Remove it unless another of the services still uses it."""
    with suppress(OSError):
        short_directory(home).rmdir()


def make_private(directory: Path, *, mode: int = 0o700) -> None:
    """Create ``directory``, which only its owner may write. Raises LocalError when it is someone else's."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=mode)
        found = directory.lstat()
    except OSError as error:
        raise LocalError(f"cannot create {directory}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LocalError(f"{directory} is not a directory that only this user may write: remove it, or fix its owner")


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_secret(path, json.dumps(content))


def write_secret(path: Path, text: str) -> None:
    """Replace ``path`` as a whole, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LocalError(f"cannot write {path}: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """What :func:`write_json` wrote; None when there is nothing, or nothing of use."""
    try:
        content: object = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    return cast("dict[str, Any]", content) if isinstance(content, dict) else None


def secret(path: Path) -> str:
    """The secret in ``path``, made at first use."""
    try:
        if text := path.read_text().strip():
            return text
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    write_secret(path, secrets.token_hex(32))
    return path.read_text().strip()


def open_log(home: Path, name: str) -> int:
    """A file descriptor that appends to ``home/logs/name.log``; a log that grew large is put aside first."""
    path = log_path(home, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists() and path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}") from error


def log_path(home: Path, name: str) -> Path:
    return home / "logs" / f"{name}.log"


def log_tail(home: Path, name: str, *, since: int, lines: int = 12) -> str:
    """The last lines written behind byte ``since``."""
    with log_path(home, name).open("rb") as file:
        file.seek(since)
        text = file.read()[-16384:].decode(errors="replace")
    return "\n".join(text.strip().splitlines()[-lines:]) or "(it said nothing)"


@contextmanager
def exclusive(home: Path, *, timeout_s: float = 180.0) -> Generator[None]:
    """Hold this home's lock: one ``rollway up`` or ``down`` at a time. It ends with its process, however that ends."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalError(f"cannot use {home} (ROLLWAY_HOME): {error.strerror}") from error
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise LocalError(
                        f"another `rollway up` or `down` holds {home} since {timeout_s:.0f} s: see `fuser {home}/.lock`"
                    ) from error
                time.sleep(0.1)
        yield
    finally:
        os.close(lock)
