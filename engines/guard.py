"""Runs one command and outlives its owner just long enough to end everything the command started.

    python -I -S guard.py GRACE_SECONDS COMMAND...

The owner holds the other end of stdin. When it closes, because the owner asks for the end or because it died, by
SIGKILL too, the command's process group gets SIGTERM and, ``GRACE_SECONDS`` later, SIGKILL. As a child subreaper
this process inherits whatever the command leaves behind, so that nothing escapes by starting a session of its own.
When the command ends by itself, what is left of it is ended likewise. Exits with the command's status.

Standard library alone, and nothing of this package: it must start at once.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def main(grace: float, command: list[str]) -> int:
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_guard)
    pidfd = os.pidfd_open(child.pid)
    select.select([0, pidfd, woken], [], [])
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        _reap(deadline=time.monotonic() + grace, first=child)
    _signal_group(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10.0
    while not _reap(deadline=time.monotonic() + 0.05, first=child) and time.monotonic() < deadline:
        for pid in _children():
            _signal(pid, signal.SIGKILL)
    status = child.returncode
    if status is None:
        return 1
    return status if status >= 0 else 128 - status


def _die_with_guard() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _signal(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _signal_group(group: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signum)


def _reap(deadline: float, first: subprocess.Popen) -> bool:
    """Collect ended children until none is left (True) or the deadline passes."""
    while True:
        first.poll()
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == first.pid and first.returncode is None:
            first.returncode = os.waitstatus_to_exitcode(status)
        if pid == 0:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def _children() -> list[int]:
    """Direct children, those inherited included."""
    own, found = os.getpid(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue  # gone meanwhile
            if int(fields[1]) == own:
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
