"""Processes of this machine, told apart from later ones with the same number."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from controlplane.local.errors import LocalError

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessId:
    pid: int
    started: int
    """Clock ticks from boot to its start: a later process with this number has another."""

    @property
    def alive(self) -> bool:
        return identify(self.pid) == self


def identify(pid: int) -> ProcessId | None:
    """The process that has this number now; None when there is none, or only what is left of one."""
    try:
        # The name, in parentheses, may hold anything; what follows it has no spaces but separators.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else ProcessId(pid, int(fields[19]))


def find(matches: Callable[[int], bool]) -> list[ProcessId]:
    """Every live process but this one for whose number ``matches`` says so."""
    own = os.getpid()
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    found = (identify(pid) for pid in pids if pid != own and matches(pid))
    return [process for process in found if process is not None]


def works_in(pid: int, directory: Path) -> bool:
    """Whether its working directory is ``directory``; False also when that may not be asked."""
    try:
        return Path(os.readlink(_PROC / str(pid) / "cwd")) == directory  # noqa: PTH115 - no resolving of a deleted one
    except OSError:
        return False


def holds_open(pid: int, directory: Path) -> bool:
    """Whether it has a file below ``directory`` open."""
    try:
        links = [os.readlink(link) for link in (_PROC / str(pid) / "fd").iterdir()]  # noqa: PTH115 - as they stand
    except OSError:
        return False
    return any(link.startswith(f"{directory}/") for link in links)


def has_variable(pid: int, name: str, value: str) -> bool:
    """Whether the environment that it was started with has it; some programs overwrite theirs."""
    return f"{name}={value}" in _read(pid, "environ").split("\0")


def _read(pid: int, name: str) -> str:
    try:
        return (_PROC / str(pid) / name).read_bytes().decode(errors="replace")
    except OSError:
        return ""


def command_line(pid: int) -> list[str]:
    return _read(pid, "cmdline").rstrip("\0").split("\0")


def send(processes: Iterable[ProcessId], signum: int) -> None:
    for process in processes:
        if process.alive:
            try:
                os.kill(process.pid, signum)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                raise LocalError(f"process {process.pid} belongs to another user: end it as that user") from error


def wait_gone(processes: Iterable[ProcessId], timeout_s: float) -> list[ProcessId]:
    """Wait until all have ended; those that had not after ``timeout_s`` seconds."""
    left = list(processes)
    deadline = time.monotonic() + timeout_s
    while (left := [process for process in left if process.alive]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def end(processes: Iterable[ProcessId], *, what: str, signum: int = signal.SIGTERM, grace_s: float = 10.0) -> None:
    """Ask them to end with ``signum``; after ``grace_s`` seconds SIGKILL. Raises LocalError if one survives that."""
    targets = list(processes)
    send(targets, signum)
    left = wait_gone(targets, grace_s)
    send(left, signal.SIGKILL)
    if stuck := wait_gone(left, 10.0):
        pids = ", ".join(str(process.pid) for process in stuck)
        raise LocalError(f"{what} (process {pids}) survived SIGKILL for 10 s: it waits for a disk, see `ps -o wchan`")
