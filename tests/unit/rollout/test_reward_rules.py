"""Every shipped rule against cases whose rewards were worked out by hand, and against ten thousand hostile strings."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from engines.types import Sample, SampleStatus
from tests.unit.rollout.hostile_strings import hostile
from tests.unit.rollout.reward_cases import CASES, CHOICES
from trainers.config.reward import RewardConfig
from trainers.errors import RolloutFailed
from trainers.rollout.rewards import Reward, load_reward

NUM_HOSTILE = 10_000


def config(**fields: Any) -> Any:
    return TypeAdapter(RewardConfig).validate_python(fields)


def sample(response: str, label: Any = None, **metadata: Any) -> Sample:
    return Sample(0, 0, prompt="p", response=response, label=label, status=SampleStatus.COMPLETED, metadata=metadata)


@pytest.fixture(scope="module")
async def rules() -> AsyncIterator[Reward]:
    """All rules in one: each sample says which. One worker, started once."""
    async with load_reward(config(type="math", workers=1)) as reward:
        yield reward


@pytest.fixture(scope="module")
async def impatient_rules() -> AsyncIterator[Reward]:
    """The same, where an answer that takes long to compare takes a second."""
    async with load_reward(config(type="math", workers=1, timeout_s=1.0)) as reward:
        yield reward


@pytest.mark.parametrize("rule", list(CASES))
async def test_a_rule_says_of_each_vetted_case_what_it_must(rules: Reward, rule: str) -> None:
    metadata = {"rm_type": rule} | (CHOICES if rule == "gpqa" else {})
    found = await asyncio.gather(*(rules(sample(response, label, **metadata)) for response, label, _ in CASES[rule]))
    wrong = [
        (case, value)
        for case, value in zip(CASES[rule], found, strict=True)
        if value != pytest.approx(case[2], abs=1e-12)
    ]
    assert not wrong


async def test_an_answer_in_a_box_is_judged_alone(rules: Reward) -> None:
    cases = [("about \\boxed{a cat}", "cat", "boxed_f1", 1.0), ("a cat", "cat", "boxed_f1", 0.0)]
    cases += [("\\boxed{7} 8", "7", "boxed_last_number", 1.0), ("\\boxed{ab}", "a.", "boxed_regex_match", 1.0)]
    cases += [("x \\boxed{7}", "7", "boxed_exact_match", 1.0), ("x \\boxed{7} \\boxed{", "7", "boxed_exact_match", 0.0)]
    for response, label, rule, expected in cases:
        assert await rules(sample(response, label, rm_type=rule)) == expected
    async with load_reward(config(type="exact_match", boxed=True)) as boxed:
        assert await boxed(sample("x \\boxed{7}", "7")) == 1.0


async def test_the_metadata_names_a_rule_and_the_jobs_own_options_still_hold() -> None:
    async with load_reward(config(type="dapo", reward_key="acc")) as reward:
        assert await reward(sample("Answer: 6", "5")) == 0.0
        assert await reward(sample("Answer: 6", "5", rm_type="dapo")) == 0.0
        assert await reward(sample("a cat", "cat", rm_type="f1")) == 1.0
        with pytest.raises(RolloutFailed, match=r"rm_type.*'nonsense': expected one of exact_match"):
            await reward(sample("a", "a", rm_type="nonsense"))
        with pytest.raises(RolloutFailed, match="leave out boxed_"):
            await reward(sample("a", "a", rm_type="boxed_math"))
    async with load_reward(config(type="from_metadata")) as reward:
        with pytest.raises(RolloutFailed, match="to name its rule"):
            await reward(sample("a", "a"))


async def test_a_weighted_sum_keeps_what_its_parts_said() -> None:
    parts = [
        {"name": "right", "weight": 2.0, "reward": {"type": "last_number"}},
        {"name": "words", "weight": 0.5, "reward": {"type": "f1"}},
        {"name": "stated", "weight": -1.0, "reward": {"type": "dapo", "reward_key": "acc"}},
    ]
    async with load_reward(config(type="weighted", parts=parts)) as reward:
        judged = sample("Answer: 5", "5")
        assert await reward(judged) == pytest.approx(2.0 * 1 + 0.5 * (2 / 3) - 1.0)
        assert judged.metadata["rewards"] == {
            "right": 1.0,
            "words": pytest.approx(2 / 3),
            "stated": 1.0,
            "stated_parts": {"score": 1.0, "acc": 1.0, "pred": "5"},
        }


RANGES = {"dapo": {-1.0, 1.0}, "f1": None}
HOSTILE_LABELS = {
    "gpqa": ["B"],
    "f1": ["a cat"],
    "regex_match": ["[a-z]+"],
    "math": ["x+1", "5", "[0,1)", "\\frac12"],
}
HOSTILE_METADATA: dict[str, dict[str, Any]] = {
    "gpqa": CHOICES,
    "code": {"tests": [{"stdin": "", "stdout": "no program prints this"}]},
}


@pytest.mark.parametrize(
    "rule",
    ["exact_match", "regex_match", "last_number", "f1", "gpqa", "dapo", "deepscaler", "math", "code"],
)
async def test_ten_thousand_hostile_strings_are_judged_without_error_or_hang(
    impatient_rules: Reward, rule: str
) -> None:
    labels = HOSTILE_LABELS.get(rule, ["5"])
    metadata = {"rm_type": rule} | HOSTILE_METADATA.get(rule, {})
    worst = 0.0

    async def judged(number_and_response: tuple[int, str]) -> float | None:
        number, response = number_and_response
        return await impatient_rules(sample(response, labels[number % len(labels)], **metadata))

    found: list[float | None] = []
    responses = list(enumerate(hostile(NUM_HOSTILE)))
    if rule == "math":  # what is in no box is not compared
        responses = [(number, f"\\boxed{{{response}}}") for number, response in responses]
    started = time.monotonic()
    for begin in range(0, len(responses), 500):
        batch = time.monotonic()
        found += await asyncio.gather(*map(judged, responses[begin : begin + 500]))
        worst = max(worst, time.monotonic() - batch)
    print(f"{rule}: {time.monotonic() - started:.1f} s, worst batch {worst:.1f} s")
    assert len(found) == NUM_HOSTILE
    if rule == "f1":
        assert all(value is not None and 0.0 <= value <= 1.0 for value in found)
    else:
        assert set(found) <= RANGES.get(rule, {0.0, 1.0})  # pyright: ignore[reportArgumentType]
    assert worst < 30.0


@pytest.mark.parametrize("rule", ["exact_match", "last_number", "f1", "gpqa", "dapo", "math", "regex_match"])
async def test_hostile_labels_do_no_harm_either(rules: Reward, rule: str) -> None:
    labels = [each for each in hostile(100) if 0 < len(each) < 2000]
    responses = ["5", "Answer: B", "\\boxed{5}"]
    await asyncio.gather(*(rules(sample(r, label, rm_type=rule)) for label in labels for r in responses))
