import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.local import processes
from controlplane.local.processes import ProcessId, identify

SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [*SLEEP[:3], f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP[3]}"]


def start(command: list[str], **options: object) -> "subprocess.Popen[str]":
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    assert process.stdout.readline() == "up\n"
    return process


@pytest.fixture
def sleeper(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    process = start(SLEEP, cwd=tmp_path, env={"MARK": "one"})
    yield process
    process.kill()
    process.wait()


def test_a_process_is_known_by_its_number_and_its_start(sleeper: "subprocess.Popen[str]") -> None:
    process = identify(sleeper.pid)
    assert process is not None and process.alive
    assert not ProcessId(process.pid, process.started - 1).alive  # an earlier one with the same number


def test_one_that_ended_is_gone_even_before_its_parent_asks(sleeper: "subprocess.Popen[str]") -> None:
    process = identify(sleeper.pid)
    assert process is not None
    sleeper.kill()
    assert processes.wait_gone([process], 5.0) == []
    assert sleeper.returncode is None  # a zombie still


def test_processes_are_found_by_directory_and_by_variable(sleeper: "subprocess.Popen[str]", tmp_path: Path) -> None:
    assert [found.pid for found in processes.find(lambda pid: processes.works_in(pid, tmp_path))] == [sleeper.pid]
    assert processes.has_variable(sleeper.pid, "MARK", "one")
    assert not processes.has_variable(sleeper.pid, "MARK", "on")
    assert processes.command_line(sleeper.pid) == SLEEP
    assert os.getpid() not in [found.pid for found in processes.find(lambda _: True)]


def test_whoever_ignores_the_request_is_killed() -> None:
    with start(STUBBORN) as process:
        identity = identify(process.pid)
        assert identity is not None
        begin = time.monotonic()
        processes.end([identity], what="a test", grace_s=0.2)
        assert 0.2 <= time.monotonic() - begin < 5
        assert process.wait() == -signal.SIGKILL


def test_ending_what_is_gone_does_nothing() -> None:
    with start(SLEEP) as process:
        identity = identify(process.pid)
        process.kill()
    assert identity is not None
    processes.end([identity], what="a test")
    assert identify(2**22 + 1) is None
