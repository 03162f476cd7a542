"""What a checkpoint tells of one optimizer or of several, for a rank that has another number of them."""

from typing import Any

import pytest

from trainers.megatron.optimizer import _told_apart

DENSE, EXPERT = ({"wd_mult": 1.0, "is_expert_parallel": of_experts, "step": 3.0} for of_experts in (False, True))
KIND = {"param_state_sharding_type": "fully_reshardable"}


def saved(*groups: Any) -> dict[str, Any]:
    return {"optimizer": {"param_groups": list(groups)}, **KIND}


def groups_of(state: Any) -> dict[bool, Any]:
    """As the optimizer looks them up: of two that are alike, the last."""
    return {group["is_expert_parallel"]: group for group in state["optimizer"]["param_groups"]}


def test_what_was_saved_of_two_is_put_together_for_one() -> None:
    found = _told_apart({0: saved(DENSE), 1: saved(EXPERT), "param_state": "mine"}, 1)
    assert found["param_state"] == "mine"
    assert found["param_state_sharding_type"] == "fully_reshardable"
    assert groups_of(found) == {False: DENSE, True: EXPERT}


def test_what_was_saved_of_one_is_told_to_both() -> None:
    found = _told_apart(saved(DENSE) | {0: {"param_state": "dense"}, 1: {"param_state": "experts"}}, 2)
    assert [found[number]["param_state"] for number in (0, 1)] == ["dense", "experts"]
    for state in found.values():
        assert groups_of(state) == {False: DENSE, True: EXPERT}


@pytest.mark.parametrize(
    ("state", "count"),
    [
        (saved(DENSE) | {"param_state": 0}, 1),
        ({number: saved(DENSE) | {"param_state": number} for number in (0, 1)}, 2),
    ],
)
def test_the_same_number_is_left_as_it_is(state: dict[Any, Any], count: int) -> None:
    assert _told_apart(state, count) is state


@pytest.mark.parametrize(
    ("state", "count"),
    [
        ({0: saved(DENSE), 1: saved(EXPERT), "optimizer": {"state": {}}}, 1),
        (saved(DENSE) | {number: {"optimizer": {"state": {}}} for number in (0, 1)}, 2),
    ],
)
def test_a_plain_optimizer_that_cannot_be_taken_apart_says_what_to_do(state: dict[Any, Any], count: int) -> None:
    with pytest.raises(ValueError, match=r"experts are spread over ranks .* set checkpoint\.finetune"):
        _told_apart(state, count)
