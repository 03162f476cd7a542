"""Group normalisation against statistics of the standard library."""

import statistics
from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.rl.advantages import group_normalize

grouped = st.lists(st.tuples(st.integers(0, 5), st.floats(-10, 10)), min_size=1, max_size=40)


def by_hand(rows: list[tuple[int, float]], normalize_std: bool) -> list[float]:
    groups: dict[int, list[float]] = defaultdict(list)
    for group, reward in rows:
        groups[group].append(reward)
    result: list[float] = []
    for group, reward in rows:
        members = groups[group]
        value = reward - statistics.fmean(members)
        if normalize_std:
            value /= (statistics.stdev(members) if len(members) > 1 else 0.0) + 1e-6
        result.append(value)
    return result


@given(rows=grouped, normalize_std=st.booleans())
def test_rewards_are_normalised_within_groups_of_any_size_and_order(
    rows: list[tuple[int, float]], normalize_std: bool
) -> None:
    ids = torch.tensor([group for group, _ in rows])
    rewards = torch.tensor([reward for _, reward in rows], dtype=torch.float64)
    advantages = group_normalize(rewards, ids, normalize_std=normalize_std)
    assert advantages.tolist() == pytest.approx(by_hand(rows, normalize_std), rel=1e-6, abs=1e-6)


@given(reward=st.floats(-1e3, 1e3, width=32), size=st.integers(1, 9), normalize_std=st.booleans())
def test_equal_rewards_and_groups_of_one_get_no_advantage(reward: float, size: int, normalize_std: bool) -> None:
    rewards = torch.full((size,), reward, dtype=torch.float32)
    advantages = group_normalize(rewards, torch.zeros(size, dtype=torch.int64), normalize_std=normalize_std)
    assert advantages.dtype is torch.float32
    assert advantages.abs().max().item() < 1e-5


def test_no_rewards_give_no_advantages() -> None:
    assert group_normalize(torch.zeros(0), torch.zeros(0, dtype=torch.int64), normalize_std=True).shape == (0,)
