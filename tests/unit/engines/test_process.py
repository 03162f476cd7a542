"""A supervised process ends with its owner, and takes everything it started with it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.process import SupervisedProcess

# Starts a child of its own session and one in its own group, both deaf to SIGTERM, and says who they are.
FAMILY = """
import os, signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
children = [
    subprocess.Popen([sys.executable, "-c", deaf], start_new_session=new, stdout=subprocess.PIPE)
    for new in (True, False)
]
for child in children:
    child.stdout.readline()
print("family", os.getpid(), *(child.pid for child in children), flush=True)
time.sleep(600)
"""


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return status != b"Z"


def _wait_until(condition, what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def _family(log: Path) -> list[int]:
    def line() -> str | None:
        text = log.read_text() if log.exists() else ""
        return next((line for line in text.splitlines() if line.startswith("family ")), None)

    _wait_until(lambda: line() is not None, f"the family to be announced in {log}")
    return [int(pid) for pid in (line() or "").split()[1:]]


async def test_stop_ends_children_that_ignore_sigterm_or_left_the_session(tmp_path: Path) -> None:
    process = SupervisedProcess(
        "family", [sys.executable, "-c", FAMILY], log=tmp_path / "log", env=dict(os.environ), grace_s=0.2
    )
    process.start()
    pids = await asyncio.to_thread(_family, tmp_path / "log")
    assert len(pids) == 3 and all(map(_alive, pids))
    await process.stop()
    assert not any(map(_alive, pids))
    await process.stop()  # again is harmless


def test_sigkill_of_the_owner_ends_the_whole_tree(tmp_path: Path) -> None:
    owner_code = (
        "import os, sys, time; from pathlib import Path; from engines.process import SupervisedProcess\n"
        f"p = SupervisedProcess('family', [sys.executable, '-c', {FAMILY!r}], log=Path({str(tmp_path / 'log')!r}),"
        " env=dict(os.environ), grace_s=0.2)\n"
        "p.start(); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", owner_code])
    try:
        pids = _family(tmp_path / "log")
        assert all(map(_alive, pids))
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
    _wait_until(lambda: not any(map(_alive, pids)), "the tree to end")


def test_sigkill_of_the_guard_ends_the_command(tmp_path: Path) -> None:
    process = SupervisedProcess(
        "lone",
        [sys.executable, "-c", "import os, time; print('family', os.getpid(), flush=True); time.sleep(600)"],
        log=tmp_path / "log",
        env=dict(os.environ),
    )
    process.start()
    (pid,) = _family(tmp_path / "log")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    _wait_until(lambda: not _alive(pid), "the command to end")
    _wait_until(lambda: process.returncode is not None, "the guard to be reaped")
    assert process.returncode == 128 + signal.SIGKILL


def test_the_status_and_the_last_lines_of_a_command_that_fails_are_kept(tmp_path: Path) -> None:
    process = SupervisedProcess(
        "failing",
        [sys.executable, "-c", "print('\\n'.join(map(str, range(100)))); raise SystemExit('out of paper')"],
        log=tmp_path / "deep" / "log",
        env=dict(os.environ),
    )
    process.start()
    _wait_until(lambda: process.returncode is not None, "the command to end")
    assert process.returncode == 1
    assert process.last_lines(3) == "98\n99\nout of paper"


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    leave = (
        "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True); print('family', c.pid, flush=True)"
    )
    process = SupervisedProcess("leaver", [sys.executable, "-c", leave], log=tmp_path / "log", env=dict(os.environ))
    process.start()
    (pid,) = _family(tmp_path / "log")
    _wait_until(lambda: process.returncode is not None, "the guard to end")
    assert process.returncode == 0
    assert not _alive(pid)


def test_a_log_directory_that_cannot_be_made_is_an_error_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = SupervisedProcess("any", ["true"], log=tmp_path / "file" / "log", env={})
    with pytest.raises(OSError, match="file"):
        process.start()
