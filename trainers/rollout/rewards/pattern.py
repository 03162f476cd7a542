"""The label is a regular expression that the whole response must match."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

# `re` has no deadline and holds the interpreter lock while it searches, so a response on which a pattern
# backtracks for ever would stop everything. In a process of its own the search can be ended: its alarm
# clock kills it, even when nobody is left to do so. Imports nothing but the standard library.
_MATCHER = """
import json, re, resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.signal(signal.SIGALRM, signal.SIG_DFL)
for line in sys.stdin:
    pattern, text, seconds = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        matched = re.fullmatch(pattern, text) is not None
    except (re.error, RecursionError, OverflowError, MemoryError):
        matched = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(int(matched), flush=True)
"""
_START_S = 10.0


class PatternMatcher:
    """Matches in a helper process, which ends with this one and is replaced when a search exceeded its deadline."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def __call__(self, response: str, label: Any) -> float:
        """1 when ``label``, a pattern in Python's syntax, matches all of the response but the white space around
        it; 0 when it does not, or not within the deadline."""
        # ASCII on the wire; lone surrogates and line ends survive as escapes.
        request = json.dumps([str(label), response.strip(), self._deadline_s]).encode() + b"\n"
        async with self._turn:
            process = await self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                async with asyncio.timeout(self._deadline_s + _START_S):
                    process.stdin.write(request)
                    await process.stdin.drain()
                    reply = await process.stdout.readline()
            except (TimeoutError, ConnectionError):
                reply = b""
            except asyncio.CancelledError:
                await self._end(process)  # its answer would be taken for the next one's
                raise
            if not reply:
                await self._end(process)
            return float(reply.strip() == b"1")

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-c", _MATCHER, stdin=PIPE, stdout=PIPE
            )
        return self._process

    async def _end(self, process: Process) -> None:
        self._process = None
        if process.returncode is None:
            process.kill()
        await process.wait()
