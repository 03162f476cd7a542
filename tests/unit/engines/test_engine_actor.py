"""What an engine says of a server that does not come up, or ends: of its status, its log and its answers."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions

from engines.config import EngineConfig
from engines.errors import EngineError, EngineLost, EngineOutOfMemory, EngineStartError
from engines.fleet import Fleet, _Engine
from engines.hardware import CPU
from engines.process import SupervisedProcess
from engines.sglang.actor import EngineLaunch, SGLangEngine

# Answers /generate with a status, 0 for a server that does not come up. Where it has something to say, it ends then,
# with a status or by a signal: at once, or after the last request of the start.
SERVER = """
import http.server, os, sys

port, answer, said, end = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def finish():
    print(said, flush=True)
    os.kill(os.getpid(), -end) if end < 0 else os._exit(end)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200)

    def do_POST(self):
        self.reply(answer if self.path == "/generate" else 200)
        if self.path == "/freeze_gc" and said:
            finish()

    def reply(self, status):
        body = b'{"error": "Unauthorized"}'
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

if not answer:
    finish()
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

FAILED_CHILD = "SIGQUIT received. signum=None, frame=None. It usually means one child failed."


class Scripted(SGLangEngine):
    """With the script above in SGLang's place."""

    def __init__(self, directory: Path, *, answer: int = 200, said: str = "", end: int = 0, timeout_s: float = 60.0):
        config = EngineConfig(start_timeout_s=timeout_s)
        super().__init__(EngineLaunch(0, "/model", config, CPU, 1, directory), host="127.0.0.1")
        self._arguments = [str(answer), said, str(end)]

    def _spawn(self, host: str, port: int) -> SupervisedProcess:
        command = [sys.executable, "-c", SERVER, str(port), *self._arguments]
        process = SupervisedProcess("engine-0", command, log=self._launch.log_dir / "engine-0.log", env=os.environ)
        process.start()
        return process


HINT = ", by SIGKILL, which is also what the kernel sends when the host's memory runs out"


@pytest.mark.parametrize(
    ("said", "end", "no_memory", "hint"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 1, True, False),
        ("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.", 1, True, False),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", 1, True, False),
        ("OSError: [Errno 12] Cannot allocate memory" + 100 * "\nIn another rank", 1, True, False),
        (f"MemoryError\n{FAILED_CHILD}", -signal.SIGKILL, True, False),
        ("all is well", -signal.SIGKILL, False, True),
        (f"scheduler_0 (pid=3) crashed with exit code -9. Triggering\n{FAILED_CHILD}", -signal.SIGKILL, False, True),
        (f"IndexError: out of bounds\n{FAILED_CHILD}", -signal.SIGKILL, False, False),
        ("If you hit GPU OOM issue, please adjust the memory fraction", 1, False, False),
    ],
)
async def test_the_end_of_a_server_is_for_want_of_memory_when_its_log_says_so(
    tmp_path: Path, said: str, end: int, no_memory: bool, hint: bool
) -> None:
    why = f", out of memory: {said.splitlines()[0]}" if no_memory else HINT if hint else ""
    ended = f"engine-0: the SGLang server ended with status {128 - end if end < 0 else end}"
    with pytest.raises(EngineError) as start:
        await Scripted(tmp_path / "start", answer=0, said=said, end=end).start()
    assert type(start.value) is (EngineOutOfMemory if no_memory else EngineStartError)
    assert str(start.value).startswith(f"{ended} before it was ready{why}; last lines of {tmp_path}")

    engine = Scripted(tmp_path / "later", said=said, end=end)
    await engine.start()
    with pytest.raises(EngineError) as later:
        async with asyncio.timeout(20):
            while True:
                await engine.health()
                await asyncio.sleep(0.02)
    assert type(later.value) is (EngineOutOfMemory if no_memory else EngineLost)
    assert str(later.value).startswith(f"{ended}{why}; last lines of {tmp_path}")


async def test_a_server_that_refuses_to_generate_ends_the_start_at_once_with_its_words(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(
        EngineStartError, match=r'refused http://\S+/generate with status 401: {"error": "Unauthorized"}'
    ):
        await Scripted(tmp_path, answer=401).start()
    assert time.monotonic() - started < 30


async def test_a_server_that_fails_to_generate_is_asked_until_the_deadline_which_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match=r"did not generate a token \(http://\S+/generate: status 500: .*= 2 s"):
        await Scripted(tmp_path, answer=500, timeout_s=2.0).start()


async def test_an_engine_that_ray_ends_for_want_of_memory_is_told_from_one_that_is_lost(tmp_path: Path) -> None:
    async def killed() -> Any:
        raise ray.exceptions.OutOfMemoryError("the node is at 0.97")

    config = EngineConfig()
    fleet = Fleet(config, CPU, model_path="/model", slots=[], tp_size=1, log_dir=tmp_path)
    call = SimpleNamespace(remote=killed)
    engine = _Engine(EngineLaunch(0, "/model", config, CPU, 1, tmp_path), SimpleNamespace(start=call, health=call))
    for asked in (fleet._start_engine, fleet._check):
        with pytest.raises(EngineOutOfMemory, match=r"engine-0 was ended by Ray.*memory: .*the node is at 0\.97"):
            await asked(engine)
