"""Samples become micro-batches: each exactly once, balanced, within the token limit; wrong ones are named."""

import math
import statistics
from typing import Any

import pytest
from pydantic import TypeAdapter

from engines.types import Sample, SampleStatus
from trainers.batch import build_train_batch
from trainers.config import AlgorithmConfig, DPOConfig, GRPOConfig
from trainers.errors import ConfigInvalid, RolloutFailed
from trainers.protocols import TrainBatch


def sample(index: int, reward: float | None, group: int = 0, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "tokens": [5, 6, 7, 8],
        "response_length": 2,
        "loss_mask": [1, 1],
        "rollout_log_probs": [-0.5, -0.25],
        "weight_versions": [3, 3],
        "status": SampleStatus.COMPLETED,
    }
    return Sample(index=index, group_index=group, prompt="p", reward=reward, **(fields | changes))


def build(*groups: list[Sample], normalize_std: bool = True) -> TrainBatch:
    return build_train_batch(
        7,
        list(groups),
        GRPOConfig(normalize_std=normalize_std),
        global_batch_size=sum(len(group) for group in groups),
        data_parallel_size=1,
        max_tokens=64,
    )


def test_samples_keep_their_tokens_and_get_their_groups_advantage() -> None:
    batch = build([sample(0, 1.0), sample(1, 0.0)], [sample(2, 5.0, 1), sample(3, 5.0, 1)])
    assert batch.rollout_id == 7
    assert [s.tokens.tolist() for s in batch.samples] == [[5, 6, 7, 8]] * 4
    assert [s.loss_mask.tolist() for s in batch.samples] == [[1, 1]] * 4
    assert [s.rollout_log_probs.tolist() for s in batch.samples] == [[-0.5, -0.25]] * 4
    std = statistics.stdev([1.0, 0.0])
    assert [s.advantage for s in batch.samples] == pytest.approx([0.5 / std, -0.5 / std, 0, 0], abs=1e-5)


def test_a_sample_counts_the_tokens_that_it_has_once_padded() -> None:
    group = [sample(i, float(i)) for i in range(4)]  # of 4 tokens each
    plans = [
        build_train_batch(
            0,
            [group],
            GRPOConfig(),
            global_batch_size=4,
            data_parallel_size=1,
            max_tokens=16,
            tokens_padded_to=multiple,
        ).plan.steps
        for multiple in (1, 8)
    ]
    assert [[len(batch) for batch in steps[0][0]] for steps in plans] == [[4], [2, 2]]


def test_without_std_the_advantage_is_the_distance_from_the_mean() -> None:
    batch = build([sample(0, 3.0), sample(1, 0.0), sample(2, 0.0)], normalize_std=False)
    assert [s.advantage for s in batch.samples] == pytest.approx([2.0, -1.0, -1.0])


@pytest.mark.parametrize(
    "changes",
    [
        {"reward": 9.0, "status": SampleStatus.FAILED},
        {"reward": 9.0, "status": SampleStatus.ABORTED},
        {"reward": None},
    ],
    ids=["failed", "aborted", "without reward"],
)
def test_a_sample_without_outcome_is_masked_and_no_part_of_the_statistics(changes: dict[str, Any]) -> None:
    batch = build([sample(0, 1.0), sample(1, **changes), sample(2, 0.0)], normalize_std=False)
    assert [s.advantage for s in batch.samples] == pytest.approx([0.5, 0.0, -0.5])
    assert [s.loss_mask.tolist() for s in batch.samples] == [[1, 1], [0, 0], [1, 1]]


def test_a_failed_sample_without_a_token_still_has_a_masked_one() -> None:
    lost = sample(
        1,
        None,
        tokens=[5, 6],
        response_length=0,
        loss_mask=[],
        rollout_log_probs=[],
        weight_versions=[],
        status=SampleStatus.FAILED,
    )
    trained = build([sample(0, 1.0), lost]).samples[1]
    assert trained.tokens.tolist() == [5, 6, 6]
    assert trained.loss_mask.tolist() == [0]
    assert trained.response_length == 1


def test_a_rollout_with_nothing_to_learn_from_says_what_became_of_its_samples() -> None:
    with pytest.raises(RolloutFailed, match=r"rollout 7: none of its 2 samples has a reward: .*'failed': 2"):
        build([sample(i, None, status=SampleStatus.FAILED) for i in range(2)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_mask": [1]}, "loss_mask has 1 entries for response_length 2"),
        ({"rollout_log_probs": []}, "rollout_log_probs has 0 entries for response_length 2"),
        ({"weight_versions": [1, 1, 1]}, "weight_versions has 3 entries"),
        ({"tokens": [1, 2]}, "at least one must be the prompt's"),
        ({"loss_mask": [1, 2]}, "something other than 0 and 1"),
        ({"rollout_log_probs": [-1.0, math.nan]}, "not finite"),
        ({"status": SampleStatus.PENDING}, "still pending"),
        (
            {"response_length": 0, "loss_mask": [], "rollout_log_probs": [], "weight_versions": []},
            "no response token",
        ),
    ],
)
def test_a_sample_that_contradicts_itself_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RolloutFailed, match=f"rollout 7, sample 4: .*{message}"):
        build([sample(4, 1.0, **changes)])


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RolloutFailed, match="reward is nan"):
        build([sample(4, math.nan)])


def outcomes(algorithm: dict[str, Any], *groups: list[Sample]) -> list[float]:
    config: AlgorithmConfig = TypeAdapter(AlgorithmConfig).validate_python(algorithm)
    batch = build_train_batch(
        7,
        list(groups),
        config,
        global_batch_size=sum(len(group) for group in groups),
        data_parallel_size=1,
        max_tokens=64,
    )
    return [s.advantage for s in batch.samples]


REWARDS = [[1.0, 0.0, 4.0], [2.0], [3.0, 5.0]]
CENTERED = [1 - 5 / 3, -5 / 3, 4 - 5 / 3, 0, -1, 1]


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ({"name": "grpo", "normalize_std": False}, CENTERED),
        ({"name": "grpo", "normalize_rewards": False, "normalize_std": False}, [1, 0, 4, 2, 3, 5]),
        ({"name": "dr_grpo", "loss_divisor": 8}, CENTERED),
        ({"name": "rloo"}, [1 - 2, 0 - 2.5, 4 - 0.5, 0, -2, 2]),
        ({"name": "reinforce_plus_plus"}, [1, 0, 4, 2, 3, 5]),
        ({"name": "reinforce_plus_plus_baseline"}, CENTERED),
        ({"name": "ppo"}, [1, 0, 4, 2, 3, 5]),
        ({"name": "gspo", "normalize_std": False}, CENTERED),
        ({"name": "cispo", "normalize_std": False}, CENTERED),
        ({"name": "sft"}, [1, 0, 4, 2, 3, 5]),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else None,
)
def test_each_algorithm_compares_rewards_in_its_own_way_in_groups_of_any_size(
    algorithm: dict[str, Any], expected: list[float]
) -> None:
    index = iter(range(99))
    groups = [[sample(next(index), reward, number) for reward in group] for number, group in enumerate(REWARDS)]
    assert outcomes(algorithm, *groups) == pytest.approx(expected)


def test_samples_of_a_trajectory_know_its_tokens_in_their_step_and_count_once() -> None:
    rows = [sample(i, float(i), 0, trajectory_index=trajectory) for i, trajectory in enumerate([5, 5, None, 5, 6, 6])]
    rows[1].loss_mask = [1, 0]
    batch = build_train_batch(
        7, [rows], GRPOConfig(), global_batch_size=3, data_parallel_size=1, max_tokens=4
    )  # the steps are 0-2 and 3-5: trajectory 5 is in both
    assert [s.tokens_of_trajectory for s in batch.samples] == [3, 3, 2, 2, 4, 4]
    assert [s.trajectory_head for s in batch.samples] == [True, False, True, True, True, False]


def test_pairs_stay_together_in_their_micro_batch_chosen_first() -> None:
    pairs = [[sample(2 * i, 1.0, i), sample(2 * i + 1, 0.0, i)] for i in range(6)]
    batch = build_train_batch(7, pairs, DPOConfig(), global_batch_size=6, data_parallel_size=1, max_tokens=8)
    seen = [members for ranks in batch.plan.steps for batches in ranks for members in batches]
    assert sorted(i for members in seen for i in members) == list(range(12))
    for members in seen:
        assert all(a % 2 == 0 and b == a + 1 for a, b in zip(members[::2], members[1::2], strict=True))


@pytest.mark.parametrize(
    ("sizes", "batch_size", "error", "message"),
    [([3], 3, RolloutFailed, "it has 3 samples"), ([2, 2, 2], 3, ConfigInvalid, "must be even")],
)
def test_what_is_no_pair_is_refused(sizes: list[int], batch_size: int, error: type[Exception], message: str) -> None:
    index = iter(range(99))
    groups = [[sample(next(index), 1.0, number) for _ in range(size)] for number, size in enumerate(sizes)]
    with pytest.raises(error, match=message):
        build_train_batch(7, groups, DPOConfig(), global_batch_size=batch_size, data_parallel_size=1, max_tokens=64)


def test_a_users_way_with_rewards_takes_the_algorithms_place() -> None:
    groups = [[sample(0, 3.0), sample(1, 1.0), sample(2, None)], [sample(3, 8.0, 1)]]
    batch = build_train_batch(
        7,
        groups,
        GRPOConfig(),
        global_batch_size=4,
        data_parallel_size=1,
        max_tokens=64,
        outcomes=[[1.5, 0.5, 9.0], [4.0]],
    )
    assert [s.advantage for s in batch.samples] == [1.5, 0.5, 0.0, 4.0]
