"""What was once found out about a file, kept for the next time it is opened."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

VERSION = 2
"""Of everything that is kept; raise it when a format changes."""
CHUNK = 1 << 24
_SETTLED_S = 2.0


def cache_directory() -> Path:
    """``$ROLLWAY_CACHE/data``, or below the user's cache directory. It may be deleted at any time."""
    own = os.environ.get("ROLLWAY_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rollway"
    return base / "data"


def key_of(*parts: object) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True, default=str).encode()).hexdigest()[:32]


def file_key(path: Path) -> str | None:
    """Names what is known of the file as it is now: by its path, size and time of change. None while it is too young:
    a change within the clock's resolution would not show. Raises OSError."""
    stat = path.stat()
    if time.time() - stat.st_mtime < _SETTLED_S:
        return None
    return key_of(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def keep(name: str, write: Callable[[BinaryIO], object]) -> Path:
    """Write a file into the cache, whole or not at all. Raises OSError."""
    target = cache_directory() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".partial", delete=False) as file:
        try:
            write(cast(BinaryIO, file))
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return target


def keep_json(name: str, content: dict[str, Any]) -> None:
    """Where the cache cannot be written, it will be found out again."""
    try:
        keep(name, lambda file: file.write(json.dumps(content).encode()))
    except OSError:
        return


def kept_json(name: str) -> dict[str, Any] | None:
    """What was kept; None if nothing was, or it was cut short."""
    try:
        content = json.loads((cache_directory() / name).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def content_hash(path: Path) -> str:
    """Of all of the file; kept, as reading it may take long. Raises OSError."""
    key = file_key(path)
    if key is not None and (kept := kept_json(f"{key}.hash.json")) is not None and isinstance(kept.get("hash"), str):
        return kept["hash"]
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if key is not None:
        keep_json(f"{key}.hash.json", {"hash": digest.hexdigest()})
    return digest.hexdigest()
