"""Workers answer their own question or none, whatever what they judge does to them."""

import json
import sys

import pytest

from trainers.rollout.rewards import pool
from trainers.rollout.rewards.helper import Helper
from trainers.rollout.rewards.pool import WorkerPool
from trainers.rollout.rewards.verdict import Unjudgeable

# Does what the question says, in place of judging.
WORKER = """
import json, os, sys, time
from trainers.rollout.rewards import worker
def judge(*, do):
    if do == "exit": os._exit(0)
    if do == "abort": os.abort()
    if do == "forge": os.write(3, b"[1, 1.0]\\\\n")
    if do == "spin": 9**9**9
    if do == "wait": time.sleep(0.6)
    if do == "sleep": time.sleep(60)
    if do == "wrong": raise worker.Unjudgeable("the question is wrong")
    if do == "raise": raise RuntimeError
    if do == "exhaust": bytes(1 << 40)
    if do == "nan": return float("nan")
    if do == "deep": exec("(" * 5000)
    return 0.5
worker.ASLEEP_S = 2.0
sys.modules["acting"] = sys.modules["__main__"]
worker.RULES["acting"] = "acting:judge"
sys.argv = ["worker", "acting"]
worker.main()
"""


@pytest.fixture
async def acting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        pool, "_worker", lambda rule: Helper([sys.executable, "-c", WORKER], env=pool._worker_env(), cwd=pool._ROOT)
    )
    workers = WorkerPool("acting", 1, isolated=False)
    yield workers
    await workers.close()


async def test_a_worker_that_is_ended_broken_or_forged_costs_its_own_question_only(acting: WorkerPool) -> None:
    assert await acting.judge({"do": "judge"}, 0.5) == 0.5
    for act in ("exit", "abort", "spin", "raise", "exhaust", "nan", "deep", "exit", "exit"):
        assert await acting.judge({"do": act}, 0.3) == 0.0, act
        assert await acting.judge({"do": "judge"}, 0.5) == 0.5, act
    await acting.judge({"do": "forge"}, 0.5)
    assert await acting.judge({"do": "judge"}, 0.5) == 0.5
    with pytest.raises(Unjudgeable, match="the question is wrong"):
        await acting.judge({"do": "wrong"}, 0.5)
    with pytest.raises(Unjudgeable, match="is no JSON"):
        await acting.judge({"do": object()}, 0.5)


async def test_an_answer_has_its_time_on_a_busy_machine_too_and_what_sleeps_is_ended(acting: WorkerPool) -> None:
    assert await acting.judge({"do": "wait"}, 0.3) == 0.5
    assert await acting.judge({"do": "sleep"}, 0.2) == 0.0


async def test_a_pool_closes_with_workers_that_never_started_and_twice() -> None:
    workers = WorkerPool("math", 3, isolated=False)
    await workers.close()
    await workers.close()


def test_a_question_longer_than_a_pipe_is_asked_whole() -> None:
    echo = "import sys\nfor line in sys.stdin: print(len(line), flush=True)"
    helper = Helper([sys.executable, "-c", echo])
    assert helper.ask(json.dumps("x" * 1_000_000).encode(), 10.0) == b"1000003"
    helper.close()
    assert helper.ask(b"", 10.0) == b"1"
    helper.close()
