"""Processes that are killed while they roll out, and go on from what they saved."""

import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

from tests.unit.rollout.killed_runs import SAVE_INTERVAL, run

KILLS = 20
AT_MOST = 2 * SAVE_INTERVAL
"""Rollouts between two kills."""


class Process:
    def __init__(self, directory: Path, prompts: Path, total: int, *, paced: bool = False) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.unit.rollout.killed_runs"])
        self._pace, theirs = context.Pipe()
        given = (directory, prompts, total, theirs if paced else None)
        self.process = context.Process(target=run, args=given, daemon=True)
        self.process.start()
        theirs.close()

    def let_pass(self, rollouts: int) -> None:
        for _ in range(rollouts):
            assert self._pace.poll(30), "no rollout within 30 s"
            self._pace.recv()
            self._pace.send(None)

    def kill(self) -> None:
        self.process.kill()
        self.process.join(30)


def seen(directory: Path) -> list[dict[str, Any]]:
    *whole, _ = (directory / "seen.jsonl").read_text().split("\n")  # the last may have been cut off
    return [json.loads(line) for line in whole]


def test_a_run_that_is_killed_twenty_times_sees_the_same_samples_in_the_same_order(tmp_path: Path) -> None:
    prompts, rng = tmp_path / "prompts.jsonl", random.Random(11)
    prompts.write_text("".join(json.dumps({"input": chr(97 + i) + "x", "label": "1"}) + "\n" for i in range(26)))
    total = KILLS * (AT_MOST + 1)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = Process(tmp_path / "whole", prompts, total)
    for _ in range(KILLS):
        killed = Process(tmp_path / "killed", prompts, total, paced=True)
        killed.let_pass(rng.randint(0, AT_MOST))
        time.sleep(rng.uniform(0, 0.02))  # into the next one, or into what comes before the first
        assert killed.process.is_alive()
        killed.kill()
    last = Process(tmp_path / "killed", prompts, total)
    last.process.join(60)
    whole.process.join(60)
    assert (last.process.exitcode, whole.process.exitcode) == (0, 0)
    expected = seen(tmp_path / "whole")
    assert [each["rollout"] for each in expected] == list(range(total))
    again = seen(tmp_path / "killed")
    assert len(again) > total, "some were rolled out again after a kill"
    assert all(each == expected[each["rollout"]] for each in again)
    assert {each["rollout"] for each in again} == set(range(total))
    assert any(len(set(versions)) > 1 for each in expected for group in each["groups"] for *_, versions in group)
    positions = [json.loads((tmp_path / name / "position.json").read_text()) for name in ("whole", "killed")]
    assert positions[0] == positions[1]
