"""Programs run apart: what they may not do."""

import asyncio
import os
import signal
import time

import pytest

from tests.unit.rollout.judging import isolated
from trainers.config.reward import CodeRewardConfig
from trainers.errors import ConfigInvalid
from trainers.rollout.rewards.code import sandbox
from trainers.rollout.rewards.code.judge import CodeReward
from trainers.rollout.rewards.code.sandbox import Ended, Limits, Program, Sandbox, python_argv

LIMITS = Limits(cpu_s=1, memory_bytes=256 << 20, file_bytes=4 << 20, processes=8, output_bytes=10_000)


async def run(source: str, stdin: bytes = b"", wall_s: float = 10.0) -> Ended:
    program = Program(python_argv("/tmp/program.py"), stdin, {"/tmp/program.py": source})
    return await Sandbox(LIMITS, isolated=True).run(program, wall_s)


def trying(statement: str) -> str:
    """A program that says whether the system refused a statement."""
    imports = "import ctypes, os, socket\nlibc = ctypes.CDLL(None)"
    return f"{imports}\ntry:\n    {statement}\n    print('done')\nexcept OSError as e: print('refused')"


@isolated
@pytest.mark.parametrize(
    "statement",
    [
        "socket.create_connection(('127.0.0.1', 22), 1)",
        "socket.create_connection(('192.0.2.1', 53), 1)",
        "socket.getaddrinfo('localhost', 80)",
        "open('/etc/passwd')",
        "os.listdir('/proc')",
        f"open({__file__!r})",
        "open('/usr/x', 'w')",
        "open('/x', 'w')",
        "os.setuid(0)",
        "os.mkdir('/dev/x')",
        "open('big', 'wb').write(bytes(5 << 20))",
        "[open(str(i), 'wb').write(bytes(1 << 20)) for i in range(9)]",
        "[open(str(i), 'wb') for i in range(3000)]",
        "[os.fork() or __import__('time').sleep(9) for _ in range(9)]",
        "os.memfd_create('x')",
        "os.unshare(os.CLONE_NEWUSER)",
        "libc.shmget(0, 4096, 0o1600) >= 0 or (_ for _ in ()).throw(OSError())",
        "libc.clone(0, 0, os.CLONE_NEWUSER | 17, 0) >= 0 or (_ for _ in ()).throw(OSError())",
        "libc.ptrace(0, 0, 0, 0) >= 0 or (_ for _ in ()).throw(OSError())",
        "os.kill(1, 9) or os.kill(1, 0) or (_ for _ in ()).throw(OSError())",
    ],
)
async def test_the_system_refuses_a_program_everything_but_itself(statement: str) -> None:
    ended = await run(trying(statement))
    assert b"done" not in ended.output
    assert ended.output.strip() == b"refused" or ended.status != 0


@isolated
async def test_a_program_computes_reads_and_writes_its_own_files() -> None:
    ended = await run("open('f','w').write('7'); print(int(open('f').read()) + int(input()))", b"5\n")
    assert ended == Ended(0, b"12\n")


@isolated
async def test_a_program_may_have_threads_and_processes() -> None:
    source = """
import subprocess, threading
from multiprocessing import Pipe, Process
found = []
thread = threading.Thread(target=found.append, args=(7,))
thread.start(); thread.join()
ours, theirs = Pipe()
child = Process(target=theirs.send, args=(found,))
child.start(); child.join()
print(ours.recv(), subprocess.run(["/bin/true"]).returncode)
"""
    assert await run(source) == Ended(0, b"[7] 0\n")


@isolated
@pytest.mark.parametrize(
    ("source", "wall_s"),
    [
        ("while True: pass", 10.0),
        ("9**9**9", 10.0),
        ("x = bytes(10**9)", 10.0),
        ("while True: print('x' * 1000)", 10.0),
        ("import time; time.sleep(60)", 0.1),
        ("import os; os.close(1); os.close(2); __import__('time').sleep(60)", 0.1),
        ("import os; os.kill(os.getpid(), 11)", 10.0),
    ],
)
async def test_a_program_that_takes_too_much_is_ended(
    source: str, wall_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "START_S", 1.0)
    started = time.monotonic()
    ended = await run(source, wall_s=wall_s)
    assert ended.status != 0
    assert time.monotonic() - started < 10.0


@isolated
async def test_nothing_outlives_its_program() -> None:
    # The child holds standard output open: the run ends only when the child has ended, too.
    source = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(60)\nprint('parent done', flush=True)"
    started = time.monotonic()
    assert (await run(source)).output == b"parent done\n"
    assert time.monotonic() - started < 8.0


def test_where_nothing_can_be_isolated_code_is_refused_unless_the_job_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "isolation_refused", lambda: "unshare: Operation not permitted")
    with pytest.raises(ConfigInvalid, match=r"Operation not permitted.*set allow_network"):
        CodeReward(CodeRewardConfig())
    assert CodeReward(CodeRewardConfig(allow_network=True))


async def test_without_isolation_limits_still_hold_in_a_directory_of_its_own() -> None:
    box = Sandbox(LIMITS, isolated=False)
    source = "import os; print(os.listdir(), len(os.getcwd()) > 5)"
    program = Program(python_argv("/tmp/program.py"), b"", {"/tmp/program.py": source})
    assert await box.run(program, 10.0) == Ended(0, b"['program.py'] True\n")
    endless = Program(python_argv("/tmp/program.py"), b"", {"/tmp/program.py": "while True: pass"})
    assert (await box.run(endless, 10.0)).status != 0


async def test_without_isolation_what_a_program_leaves_behind_holds_nobody_up() -> None:
    source = """
import os, time
child = os.fork()
if child:
    print(child, flush=True)
else:
    os.setsid()
    os.close(1)
    time.sleep(60)
"""
    program = Program(python_argv("/tmp/program.py"), b"", {"/tmp/program.py": source})
    async with asyncio.timeout(30):
        ended = await Sandbox(LIMITS, isolated=False).run(program, 1.0)
    os.kill(int(ended.output), signal.SIGKILL)  # it was still there
