"""What a job may say of its reward, and what is wrong with labels before a run begins."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from controlplane.jobs.spec import field_errors
from engines.types import Sample, SampleStatus
from trainers.config import RolloutConfig
from trainers.config.reward import ExactMatchRewardConfig, RewardConfig
from trainers.errors import PluginInvalid, RolloutFailed
from trainers.rollout.rewards import label_check, load_reward


def config(**fields: Any) -> Any:
    return TypeAdapter(RewardConfig).validate_python(fields)


def sample(index: int = 0, **metadata: Any) -> Sample:
    return Sample(index, 0, prompt="p", response="r" * index, status=SampleStatus.COMPLETED, metadata=metadata)


def test_specs_of_before_mean_what_they_meant() -> None:
    assert RolloutConfig(num_rollouts=1, rollout_batch_size=1).reward == ExactMatchRewardConfig()
    for told in ({}, {"type": "exact_match"}, {"timeout_s": 5}, {"type": "regex_match"}, {"type": "last_number"}):
        assert config(**told).type == told.get("type", "exact_match")
    assert config(type="custom", function="m:f", timeout_s=3).function == "m:f"


@pytest.mark.parametrize(
    ("fields", "where", "message"),
    [
        ({"type": "exact_match", "function": "m:f"}, "function", "Extra inputs"),
        ({"type": "custom"}, "function", "Field required"),
        ({"type": "math", "boxed": True}, "boxed", "Extra inputs"),
        ({"type": "code", "url": "http://a"}, "url", "Extra inputs"),
        ({"type": "remote"}, "url", "Field required"),
        ({"type": "remote", "url": "ftp://a"}, "url", "pattern"),
        ({"type": "dapo", "reward_key": "pred"}, "reward_key", "'score' or 'acc'"),
        ({"type": "f1", "group_rm": True}, "group_rm", "Extra inputs"),
        ({"type": "weighted", "parts": []}, None, "at least one part"),
        ({"type": "mathe"}, None, "type must be one of exact_match, .*weighted, from_metadata"),
    ],
)
def test_a_field_that_does_not_apply_is_an_error(fields: dict[str, Any], where: str | None, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        config(**fields)
    assert where is None or caught.value.errors()[0]["loc"][-1] == where


def test_an_error_is_told_with_the_path_that_the_spec_has() -> None:
    parts = [{"name": "a", "weight": 1, "reward": {"type": "f1", "boxd": True}}]
    spec = {"num_rollouts": 1, "rollout_batch_size": 1, "reward": {"type": "weighted", "parts": parts}}
    with pytest.raises(ValidationError) as caught:
        RolloutConfig.model_validate(spec)
    (error,) = field_errors(caught.value.errors(), RolloutConfig)
    assert error.path == "reward.parts[0].reward.boxd"
    assert error.suggestion == "reward.parts[0].reward.boxed"


def part(name: str, **reward: Any) -> dict[str, Any]:
    return {"name": name, "weight": 1.0, "reward": reward}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([part("a", type="f1"), part("a", type="math")], "two are named 'a'"),
        ([part("a", type="custom", function="m:f", group_rm=True)], "whole groups"),
        ([part("a", type="weighted", parts=[])], "type must be one of"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(parts: list[Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(type="weighted", parts=parts)


@pytest.mark.parametrize(
    ("fields", "label", "metadata", "message"),
    [
        ({"type": "math"}, "  ", None, "is empty"),
        ({"type": "dapo"}, "$", None, "is empty once it is normalised"),
        ({"type": "f1"}, "the", None, "holds no word"),
        ({"type": "f1"}, ["the", "!"], None, "no answer with a word"),
        ({"type": "gpqa"}, "purple", {"choices": ["red", "green"]}, "names no choice"),
        ({"type": "gpqa"}, "C", {"choices": ["red", "green"]}, "names no choice"),
        ({"type": "code"}, None, {}, "tests is missing"),
        ({"type": "reasoning_gym"}, "1", {}, "no task"),
        ({"type": "math"}, "1", {"rm_type": "nonsense"}, "expected one of"),
        ({"type": "math"}, "x", {"rm_type": "last_number"}, "holds no number"),
        ({"type": "from_metadata"}, "1", {}, "needs metadata"),
        ({"type": "weighted", "parts": [part("a", type="f1"), part("b", type="last_number")]}, "x", None, "no number"),
    ],
)
def test_a_row_that_can_never_be_rewarded_is_refused(
    fields: dict[str, Any], label: Any, metadata: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        label_check(config(**fields))(label, metadata)


@pytest.mark.parametrize(
    ("fields", "label", "metadata"),
    [
        ({"type": "math"}, 7, None),
        ({"type": "f1"}, ["a cat", "a dog"], None),
        ({"type": "gpqa"}, "green", {"choices": ["red", "green"]}),
        ({"type": "gpqa"}, None, {"choices": ["red", "green"], "correct_letter": "A"}),
        ({"type": "code"}, None, {"tests": ["assert f()"]}),
        ({"type": "reasoning_gym"}, "1", {"source_dataset": "basic_arithmetic"}),
        ({"type": "reasoning_gym", "task": "basic_arithmetic"}, "1", {}),
        ({"type": "remote", "url": "http://judge/"}, None, None),
        ({"type": "from_metadata"}, "x", {"rm_type": "boxed_f1"}),
        ({"type": "last_number"}, "x", {"rm_type": "f1"}),
    ],
)
def test_usable_rows_pass(fields: dict[str, Any], label: Any, metadata: Any) -> None:
    label_check(config(**fields))(label, metadata)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "judging_plugin.py").write_text(
        "async def parts(sample): return {'score': len(sample.response), 'why': 'length'}\n"
        "def group(samples): return [len(samples) - each.index for each in samples]\n"
        "async def short(samples): return [1.0]\n"
        "def parts_of_group(samples): return [{'score': 1.0}, {'score': 2.0}]\n"
    )
    monkeypatch.delitem(sys.modules, "judging_plugin", raising=False)
    return "judging_plugin"


async def test_a_dict_is_kept_whole_and_gives_the_reward_under_its_key(module: str) -> None:
    reward = load_reward(config(type="custom", function=f"{module}:parts", reward_key="score"))
    judged = sample(3)
    assert await reward(judged) == 3.0
    assert judged.metadata["rewards"] == {"score": 3, "why": "length"}
    with pytest.raises(RolloutFailed, match=r"returned .* for sample 3: expected a finite number; reward\.reward_key"):
        await load_reward(config(type="custom", function=f"{module}:parts"))(sample(3))


async def test_a_function_of_groups_gets_a_group_and_gives_a_reward_each(module: str) -> None:
    reward = load_reward(config(type="custom", function=f"{module}:group", group_rm=True))
    assert reward.by_group
    assert await reward.score_group([sample(0), sample(1), sample(2)]) == [3.0, 2.0, 1.0]
    with pytest.raises(RolloutFailed, match="takes whole groups"):
        await reward(sample())
    keyed = load_reward(config(type="custom", function=f"{module}:parts_of_group", group_rm=True, reward_key="score"))
    assert await keyed.score_group([sample(0), sample(1)]) == [1.0, 2.0]
    short = load_reward(config(type="custom", function=f"{module}:short", group_rm=True))
    with pytest.raises(RolloutFailed, match="for the group of sample 0: expected a list of 2 rewards"):
        await short.score_group([sample(0), sample(1)])


async def test_functions_can_be_found_by_another_door(module: str) -> None:
    asked: list[tuple[str, bool, str]] = []

    def functions(path: str, *, by_group: bool, field: str) -> Callable[..., Any]:
        asked.append((path, by_group, field))
        return lambda given: 0.25

    fields: dict[str, Any] = {"type": "custom", "function": "any.slime.module.rm"}
    assert await load_reward(config(**fields), functions=functions)(sample()) == 0.25
    parts = [part("words", type="f1"), part("mine", **fields)]
    summed = load_reward(config(type="weighted", parts=parts), functions=functions, field="eval.reward")
    assert await summed(Sample(0, 0, prompt="p", response="cat", label="cat")) == 1.25
    assert asked == [
        ("any.slime.module.rm", False, "rollout.reward.function"),
        ("any.slime.module.rm", False, "eval.reward.parts[1].reward.function"),
    ]
    with pytest.raises(PluginInvalid, match=r"no module .any."):
        load_reward(config(**fields))
