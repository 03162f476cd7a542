"""Child processes that cannot outlive their owner, however it ends."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

GUARD = Path(__file__).with_name("guard.py")


class SupervisedProcess:
    """A command under a guard (see :mod:`engines.guard`): its whole tree ends with :meth:`stop`, with the command
    itself, or with the death of the process that holds this object, SIGKILL included."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str], grace_s: float = 10.0):
        self.name = name
        self.log = log
        self._command = list(command)
        self._env = dict(env)
        self._grace_s = grace_s
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, appending stdout and stderr to the log. Raises OSError when the log cannot be written."""
        if self._guard is not None:
            raise RuntimeError(f"{self.name} was started already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(self._grace_s), *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )

    @property
    def returncode(self) -> int | None:
        """None while it runs; a signal counts as 128 plus its number."""
        status = None if self._guard is None else self._guard.poll()
        return 128 - status if status is not None and status < 0 else status  # of the guard itself, that is

    @property
    def pid(self) -> int | None:
        """Of the guard, whose descendants are the process tree."""
        return None if self._guard is None else self._guard.pid

    def last_lines(self, count: int = 25) -> str:
        """The end of the log, for error texts."""
        return tail(self.log, count)

    async def stop(self) -> None:
        """End the tree: SIGTERM, and SIGKILL after the grace period. Safe to call again. Returns once it is gone."""
        guard = self._guard
        if guard is None:
            return
        _close(guard.stdin)
        try:
            await asyncio.to_thread(guard.wait, self._grace_s + 15.0)
        except subprocess.TimeoutExpired:
            # The guard itself is stuck; its child dies with it.
            guard.kill()
            await asyncio.to_thread(guard.wait, 10.0)


def tail(path: Path, count: int) -> str:
    """The last ``count`` lines of a text file, "" when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-count:])


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None and not pipe.closed:
        pipe.close()
