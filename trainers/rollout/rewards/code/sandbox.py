"""Programs in a jail: what is run, under which limits, and what came of it."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.errors import ConfigInvalid, RolloutFailed

_JAIL = Path(__file__).with_name("jail.py")
_REFUSED = 125
_PROBE_S = 20.0
START_S = 5.0
"""A jail's own start, on a busy machine."""
_LAST_WORDS_S = 1.0
"""For what was said before the end to be read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program, its children included where the kernel counts them together."""

    cpu_s: int
    memory_bytes: int
    """Address space of each process."""
    file_bytes: int
    """All that it writes."""
    processes: int
    output_bytes: int

    def as_rlimits(self) -> dict[str, int]:
        return {
            "CPU": self.cpu_s,
            "AS": self.memory_bytes,
            "FSIZE": self.file_bytes,
            "NPROC": self.processes + 1,  # of which one may be the harness's
            "NOFILE": 64,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
        }


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. ``status`` None: its time was over, or it wrote too much."""

    status: int | None
    output: bytes


@dataclass(frozen=True, slots=True)
class Program:
    """What runs in a jail, from ``/tmp``."""

    argv: Sequence[str]
    stdin: bytes = b""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Absolute paths below /tmp, and what they hold."""


class Sandbox:
    """Runs programs apart. ``isolated`` False: under limits alone, with the network and the files of this process."""

    def __init__(self, limits: Limits, *, isolated: bool) -> None:
        self._limits = limits
        self._isolated = isolated

    async def run(self, program: Program, wall_s: float) -> Ended:
        """Run to the end, or for ``wall_s`` seconds. Raises RolloutFailed when the jail itself cannot be set up."""
        with contextlib.ExitStack() as stack:
            cwd = "/tmp"
            if not self._isolated:
                cwd = stack.enter_context(tempfile.TemporaryDirectory(prefix="reward-", ignore_cleanup_errors=True))
            files = {path.replace("/tmp", cwd, 1): text for path, text in program.files.items()}
            argv = [each.replace("/tmp", cwd, 1) if each.startswith("/tmp/") else each for each in program.argv]
            asked = preface(
                argv, self._limits.as_rlimits(), isolated=self._isolated, file_bytes=self._limits.file_bytes,
                files=files, cwd=cwd,
            )  # fmt: skip
            return await self._run(asked, program.stdin, wall_s)

    async def _run(self, asked: bytes, stdin: bytes, wall_s: float) -> Ended:
        process = await asyncio.create_subprocess_exec(
            *jail_argv(len(asked)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said = asyncio.create_task(_first_bytes(process.stderr, 2000))
        feed = asyncio.create_task(_feed(process.stdin, asked + stdin))
        output, status = b"", None
        try:
            async with asyncio.timeout(wall_s + START_S):
                output = await _bounded(process.stdout, self._limits.output_bytes)
                if len(output) <= self._limits.output_bytes:
                    status = await process.wait()
        except TimeoutError:
            status = None
        finally:
            feed.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # A process that left the group, as it can without isolation, may hold the pipes open as long as it runs.
            _, open_still = await asyncio.wait({said}, timeout=_LAST_WORDS_S)
            for each in open_still:
                each.cancel()
            await asyncio.gather(said, feed, return_exceptions=True)
            error = b"" if open_still else said.result()
            transport: Any = process._transport  # pyright: ignore[reportAttributeAccessIssue]
            transport.close()
        if status == _REFUSED and error.startswith(b"jail: "):
            raise RolloutFailed(f"the sandbox could not be set up: {error.decode(errors='replace').strip()}")
        return Ended(status, output)


async def _bounded(stream: asyncio.StreamReader, limit: int) -> bytes:
    """All that comes, or a little more than ``limit`` bytes."""
    data = bytearray()
    while len(data) <= limit and (more := await stream.read(1 << 16)):
        data += more
    return bytes(data)


async def _first_bytes(stream: asyncio.StreamReader, count: int) -> bytes:
    """The first bytes; the others are read, so that the writer never waits, and forgotten."""
    data = bytearray()
    while more := await stream.read(1 << 16):
        data += more[: max(count - len(data), 0)]
    return bytes(data)


async def _feed(stream: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        stream.write(data)
        await stream.drain()
        stream.close()


def jail_argv(length: int) -> list[str]:
    return [_python(), "-I", "-S", str(_JAIL), str(length)]


def preface(
    argv: Sequence[str],
    limits: Mapping[str, int],
    *,
    isolated: bool,
    file_bytes: int,
    files: Mapping[str, str] | None = None,
    cwd: str = "/tmp",
    readonly: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> bytes:
    """What the jail is asked, as the bytes that go before the program's own input."""
    asked: dict[str, Any] = {
        "argv": list(argv),
        "limits": dict(limits),
        "namespaces": isolated,
        "file_bytes": file_bytes,
        "files": dict(files or {}),
        "cwd": cwd,
        "readonly": [*readonly_paths(), *readonly],
        "env": {"PATH": "/usr/bin:/bin", "HOME": cwd, "TMPDIR": cwd, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        | {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}  # Python's own library, perhaps
        | dict(env or {}),
    }
    return json.dumps(asked).encode()


def python_argv(*arguments: str) -> list[str]:
    """Python without this environment's packages."""
    return [_python(), "-I", "-S", *arguments]


def readonly_paths() -> list[str]:
    """What a Python needs to run: itself and the system's libraries."""
    return ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", str(Path(sys.base_prefix).resolve())]


def require_isolation(rule: str, *, allow_network: bool) -> bool:
    """Whether programs can be isolated. Raises ConfigInvalid when not and the job does not allow to do without."""
    why = isolation_refused()
    if why is None:
        return True
    if allow_network:
        return False
    raise ConfigInvalid(
        f"reward type {rule} runs what the policy writes, and this machine cannot keep that from the network and the "
        f"job's files ({why}): allow user, network and mount namespaces here, or set allow_network to run it with "
        "resource limits alone"
    )


@functools.cache
def isolation_refused() -> str | None:
    """Why no program can be isolated here; None when one was, a moment ago, and saw no network."""
    if sys.platform != "linux":
        return f"namespaces are Linux's, and this is {sys.platform}"
    check = "import socket,os\nprint([each[1] for each in socket.if_nameindex()], os.path.exists('/etc/passwd'))"
    limits = Limits(cpu_s=5, memory_bytes=1 << 29, file_bytes=1 << 20, processes=8, output_bytes=1000).as_rlimits()
    asked = preface(python_argv("-c", check), limits, isolated=True, file_bytes=1 << 20)
    try:
        done = subprocess.run(jail_argv(len(asked)), input=asked, capture_output=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode or done.stdout != b"['lo'] False\n":
        return (done.stderr or done.stdout).decode(errors="replace").strip()[-300:] or f"status {done.returncode}"
    return None


def _python() -> str:
    """The interpreter behind a virtual environment: in a jail the environment is not there."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(Path(sys.base_prefix).resolve() / "bin" / name)
