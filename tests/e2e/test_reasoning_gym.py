"""reasoning-gym judges its own entries, in the jail: the real package, which takes seconds to import."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engines.types import Sample, SampleStatus
from tests.unit.rollout.hostile_strings import hostile
from trainers.config.reward import ReasoningGymRewardConfig
from trainers.errors import RolloutFailed
from trainers.rollout.rewards import Reward, load_reward


def sample(response: str, label: Any = None, **metadata: Any) -> Sample:
    return Sample(0, 0, prompt="p", response=response, label=label, status=SampleStatus.COMPLETED, metadata=metadata)


@pytest.fixture(scope="module")
async def gym() -> AsyncIterator[Reward]:
    async with load_reward(ReasoningGymRewardConfig(workers=1)) as reward:
        yield reward


async def test_reasoning_gym_scores_its_own_entries_and_refuses_what_is_none(gym: Reward) -> None:
    for question, answer in (("5 - 3 - 6", "-4"), ("2 * 8", "16"), ("0 + 0", "0")):
        entry = {
            "question": f"Calculate {question}.",
            "answer": answer,
            "metadata": {"source_dataset": "basic_arithmetic", "expression": question},
        }
        label, metadata = entry["answer"], entry["metadata"]
        assert await gym(sample(f"<answer>0</answer> no <answer>{label}</answer>", label, **metadata)) == 1.0
        whole = {"entry": entry}
        assert await gym(sample(f"<think>{label}</think>\n{label}", **whole)) == 1.0
        assert await gym(sample(f"<answer>{label}1</answer>", **whole)) < 1.0  # pyright: ignore[reportOperatorIssue]
    with pytest.raises(RolloutFailed, match="has no task 'none_such'"):
        await gym(sample("1", "1", source_dataset="none_such"))
    with pytest.raises(RolloutFailed, match="an entry of basic_arithmetic has an answer and metadata"):
        await gym(sample("1", entry={"metadata": {"source_dataset": "basic_arithmetic"}}))
    with pytest.raises(RolloutFailed, match="has no task"):
        await gym(sample("1", "1"))


async def test_an_answer_that_is_python_runs_where_it_reaches_nothing(gym: Reward) -> None:
    # countdown evaluates what it is given.
    entry = {
        "question": "Calculate 5 using 2, 3.",
        "answer": "2 + 3",
        "metadata": {"source_dataset": "countdown", "numbers": [2, 3], "target": 5, "expression": "2 + 3"},
    }
    assert await gym(sample("<answer>3 + 2</answer>", entry=entry)) == 1.0
    for attack in ("__import__('os').abort()", "__import__('os')._exit(0)", "__import__('os').kill(1, 9)"):
        assert await gym(sample(f"<answer>{attack}</answer>", entry=entry)) in (0.0, 0.01, 0.05)
    assert await gym(sample("<answer>3 + 2</answer>", entry=entry)) == 1.0


async def test_ten_thousand_hostile_strings_are_judged_without_error_or_hang(gym: Reward) -> None:
    found: list[float | None] = []
    responses = hostile(10_000)
    for begin in range(0, len(responses), 500):
        asked = (sample(each, "5", source_dataset="basic_arithmetic") for each in responses[begin : begin + 500])
        found += await asyncio.gather(*map(gym, asked))
    assert len(found) == 10_000
    assert all(value is not None and 0.0 <= value <= 1.0 for value in found)
