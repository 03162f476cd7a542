"""Worker processes for rules that compute: started when they are needed, ended when they take too long."""

import asyncio
import itertools
import json
import os
import queue
import secrets
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainers.rollout.rewards.code.sandbox import jail_argv, preface
from trainers.rollout.rewards.helper import Helper
from trainers.rollout.rewards.verdict import Unjudgeable
from trainers.rollout.rewards.worker import MEMORY_BYTES

_ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 10.0
"""Between a worker's own deadline and the end of its process, which then has to import all again."""


class WorkerPool:
    """Asks :mod:`trainers.rollout.rewards.worker`. One thread stands before each worker, so that the event loop
    never waits, and what a cancelled caller began is ended in its time."""

    def __init__(self, rule: str, size: int, *, isolated: bool) -> None:
        self._rule = rule
        self._numbers = itertools.count(secrets.randbits(48))  # not to be guessed by what is judged
        self._idle: queue.LifoQueue[Helper] = queue.LifoQueue()  # last used, first asked: the others need not start
        self._workers = [(_isolated_worker if isolated else _worker)(rule) for _ in range(size)]
        for each in self._workers:
            self._idle.put(each)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="reward-worker")

    async def judge(self, question: Mapping[str, Any], deadline_s: float) -> float:
        """What the rule says, or 0 when it took longer or broke its worker. Waiting for a free worker is not
        counted. Raises Unjudgeable when the question itself is wrong."""
        try:
            number = next(self._numbers)
            line = json.dumps([number, question, deadline_s]).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Unjudgeable(f"what rule {self._rule} judges by is no JSON: {error}") from error
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._threads, self._ask, number, line, deadline_s + PATIENCE_S)
        if isinstance(answer, str):
            raise Unjudgeable(answer)
        return answer

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        for each in self._workers:
            each.close()

    def _ask(self, number: int, line: bytes, deadline_s: float) -> float | str:
        helper = self._idle.get()
        try:
            for _ in range(2):
                answer = helper.ask(line, deadline_s)
                if answer is None or answer == b"null":
                    return 0.0
                found = _answer(answer, number)
                if found is not None:
                    return found
                helper.close()  # what was judged before wrote lines of its own: this is none of ours
            return 0.0
        finally:
            self._idle.put(helper)


def _answer(line: bytes, number: int) -> float | str | None:
    """The answer to question ``number``; None when the line is anything else."""
    try:
        answered, value = json.loads(line)
    except (ValueError, TypeError):
        return None
    return value if answered == number and isinstance(value, float | str) else None


def _worker(rule: str) -> Helper:
    return Helper([sys.executable, "-m", "trainers.rollout.rewards.worker", rule], env=_worker_env(), cwd=_ROOT)


def _worker_env() -> dict[str, str]:
    """A worker computes on one thread, sees no accelerator, and finds these sources."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    own = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return os.environ | own | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}


def _isolated_worker(rule: str) -> Helper:
    """A worker that sees no network and no files but this environment's packages and these sources."""
    env = _worker_env()
    own = {key: env[key] for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MPLBACKEND", "CUDA_VISIBLE_DEVICES")}
    readonly = [str(Path(sys.prefix).resolve()), *(str(_ROOT / room) for room in ("trainers", "engines"))]
    limits = {"AS": MEMORY_BYTES, "FSIZE": 1 << 24, "NPROC": 16, "NOFILE": 256, "CORE": 0}
    asked = preface(
        [sys.executable, "-m", "trainers.rollout.rewards.worker", rule],
        limits,
        isolated=True,
        file_bytes=1 << 24,
        readonly=readonly,
        env=own | {"PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return Helper(jail_argv(len(asked)), preface=asked)
