"""Evaluations ask all prompts of all sets, of one version, and leave their samples on disk."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.config import SamplingConfig
from engines.types import FinishReason, Generation, Sample
from trainers.config import DataConfig
from trainers.config.evaluation import EvalConfig
from trainers.errors import RolloutFailed
from trainers.rollout import tasks
from trainers.rollout.evaluation import EvalSet, evaluate


class Numbers:
    """As many prompts as asked for, the number as label."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = 0

    def __len__(self) -> int:
        return self._count

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        groups = [
            [
                Sample(index=p * n_samples + i, group_index=p, prompt=str(p), tokens=[p], label=p)
                for i in range(n_samples)
            ]
            for p in range(self._next, self._next + n_prompts)
        ]
        self._next += n_prompts
        return groups

    def put_back(self, groups: Sequence[list[Sample]]) -> None:
        raise AssertionError("an evaluation finishes what it begins")

    def state(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state(self, state: dict[str, Any]) -> None:
        self._next = state["next"]


async def score(sample: Sample) -> float | None:
    return None if sample.label == 3 else float(sample.label % 2)


def answering(version: int) -> Any:
    async def answer(groups: Any, sampling: SamplingConfig, reward: Any, name: str) -> Any:
        for sample in (sample for group in groups for sample in group):
            ids = [1] * sampling.max_new_tokens
            reason = FinishReason.LENGTH if sample.label == 0 else FinishReason.STOP
            sample.append_sampled(Generation(name, ids, [-1.0] * len(ids), reason, version, "x"))
            sample.reward = await reward(sample)
        return groups

    return answer


def sets(*counts: int) -> list[EvalSet]:
    return [
        EvalSet(f"set{i}", Numbers(count), 2, SamplingConfig(max_new_tokens=i + 1), score)
        for i, count in enumerate(counts)
    ]


async def test_every_prompt_is_asked_and_the_figures_are_those_of_its_samples(tmp_path: Path) -> None:
    asked = sets(5, 2)
    for version in (7, 8):  # the second asks the same again
        first, second = await evaluate(
            asked, answering(version), weight_version=version, pass_reward=1.0, timeout_s=10, directory=tmp_path
        )
        # Of prompts 0 to 4 the odd ones pass; 3 has no verdict and counts nowhere.
        assert first.metrics["reward"] == pytest.approx(1 / 4)
        assert first.metrics["pass@2"] == pytest.approx(1 / 4)
        assert (first.metrics["num_samples"], first.metrics["num_unscored"]) == (10, 2)
        assert first.metrics["truncated_fraction"] == pytest.approx(0.2)
        assert second.metrics["response_length"] == 2
        lines = [json.loads(line) for line in first.samples_path.read_text().splitlines()]
        assert first.samples_path.name == f"set0-v000000{version}.jsonl"
        assert [line["label"] for line in lines] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        assert [line["reward"] for line in lines[4:8]] == [0.0, 0.0, None, None]


async def test_what_a_judge_writes_into_the_metadata_is_stored_whatever_it_is(tmp_path: Path) -> None:
    async def judge(sample: Sample) -> float:
        sample.metadata |= {"cases": {(1, 2): np.float32(0.5)}, "by": object}
        return 1.0

    asked = [EvalSet("set0", Numbers(1), 1, SamplingConfig(max_new_tokens=1), judge)]
    [found] = await evaluate(asked, answering(7), weight_version=7, pass_reward=1.0, timeout_s=10, directory=tmp_path)
    [line] = found.samples_path.read_text().splitlines()
    assert json.loads(line)["metadata"]["by"] == str(object)


async def test_a_token_of_another_version_spoils_the_evaluation(tmp_path: Path) -> None:
    with pytest.raises(RolloutFailed, match="set0: sample 0 holds tokens of weight version 6, not 7"):
        await evaluate(sets(1), answering(6), weight_version=7, pass_reward=1.0, timeout_s=10, directory=tmp_path)


async def test_an_evaluation_that_takes_too_long_says_which(tmp_path: Path) -> None:
    async def never(*_: object) -> Any:
        await asyncio.Event().wait()

    with pytest.raises(RolloutFailed, match=r"evaluation of set0 on weight version 7 .* eval.timeout_s = 0.05 s"):
        await evaluate(sets(1), never, weight_version=7, pass_reward=1.0, timeout_s=0.05, directory=tmp_path)


async def test_where_one_set_fails_the_others_are_ended_and_one_that_goes_on_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "PATIENCE_S", 0.1)
    released, ended = asyncio.Event(), list[str]()

    async def answer(groups: Any, sampling: SamplingConfig, reward: Any, name: str) -> Any:
        if name == "eval-set0-7":
            await asyncio.sleep(0)
            raise RolloutFailed("broken")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(name)
            await (released.wait() if name == "eval-set2-7" else asyncio.sleep(0))
            raise

    asked = sets(1, 1, 1)
    with pytest.raises(RolloutFailed, match="broken"):
        await asyncio.wait_for(
            evaluate(asked, answer, weight_version=7, pass_reward=1.0, timeout_s=10, directory=tmp_path), 5
        )
    assert sorted(ended) == ["eval-set1-7", "eval-set2-7"]
    assert [each.data.state() for each in asked] == [{"next": 0}] * 3
    released.set()


def test_a_set_takes_from_the_data_section_what_it_does_not_say(tmp_path: Path) -> None:
    training = DataConfig(prompt_data="train.jsonl", input_key="question", label_key="answer", shuffle=True)
    config = EvalConfig.model_validate(
        {
            "sets": [
                {"name": "a", "prompt_data": "a.jsonl", "label_key": "gold"},
                {"name": "b", "prompt_data": "b.jsonl"},
            ]
        }
    )
    first, second = (each.data(training) for each in config.sets)
    assert (first.input_key, first.label_key, first.shuffle) == ("question", "gold", False)
    assert second.label_key == "answer"


@pytest.mark.parametrize(("interval", "last", "due"), [(None, [4], [4]), (2, [4], [1, 3, 4])])
def test_evaluations_are_due_at_the_interval_and_at_the_end(
    interval: int | None, last: list[int], due: list[int]
) -> None:
    config = EvalConfig.model_validate({"sets": [{"name": "a", "prompt_data": "a.jsonl"}], "interval": interval})
    assert [rollout for rollout in range(5) if config.is_due(rollout, last=rollout in last)] == due
    assert not EvalConfig().is_due(4, last=True)


def test_two_sets_of_one_name_and_an_interval_without_sets_are_refused() -> None:
    twice = {"name": "a", "prompt_data": "a.jsonl"}
    with pytest.raises(ValueError, match="two are named 'a'"):
        EvalConfig.model_validate({"sets": [twice, twice]})
    with pytest.raises(ValueError, match=r"add eval\.sets"):
        EvalConfig.model_validate({"interval": 3})
