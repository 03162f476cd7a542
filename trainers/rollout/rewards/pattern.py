"""The label is a regular expression that the whole response must match."""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trainers.rollout.rewards.helper import Helper

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


class PatternMatcher:
    """Matches in a helper process, one search at a time. The helper ends with this process, and is replaced when
    a search exceeded its deadline."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._helper = Helper([sys.executable, "-I", "-S", "-c", _MATCHER])
        # One thread: it is the queue in front of the helper, and ends what it began even if its caller is cancelled.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="regex_match")

    async def __call__(self, response: str, label: Any) -> float:
        """1 when ``label``, a pattern in Python's syntax, matches all of the response but the white space around
        it; 0 when it does not, or not within the deadline."""
        # JSON in ASCII: line ends and lone surrogates travel as escapes.
        request = json.dumps([str(label), response.strip(), self._deadline_s]).encode()
        reply = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._helper.ask, request, self._deadline_s + 1.0
        )
        return float(reply == b"1")

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._helper.close)
        self._thread.shutdown(wait=False)
