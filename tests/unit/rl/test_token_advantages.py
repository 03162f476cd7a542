"""Returns, generalised advantages and whitening against loops over lists."""

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rl.ragged import flat, pack, ragged
from trainers.rl.advantages import (
    baseline_advantages,
    discounted_returns,
    generalized_advantages,
    leave_one_out,
    reinforce_plus_plus_returns,
    token_rewards,
    whiten,
    whitening_sums,
)

value = st.floats(-5, 5)
rate = st.floats(0, 1)
type Samples = list[list[tuple[float, ...]]]


def outcomes_for(samples: Samples, draw: Any) -> list[float]:
    return [draw(value) for _ in samples]


@given(groups=st.lists(st.lists(value, min_size=1, max_size=6), min_size=1, max_size=5))
def test_leave_one_out_compares_with_the_mean_of_the_others(groups: list[list[float]]) -> None:
    expected = [
        reward - statistics.fmean(group[:i] + group[i + 1 :]) if len(group) > 1 else 0.0
        for group in groups
        for i, reward in enumerate(group)
    ]
    ids = torch.tensor([number for number, group in enumerate(groups) for _ in group])
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    rewards = torch.tensor(flat(groups), dtype=torch.float64)
    found = torch.empty_like(rewards)
    found[order] = leave_one_out(rewards[order], ids[order])
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def rewards_by_hand(
    sample: list[tuple[float, ...]], outcome: float, kl_coef: float, at_last_unmasked: bool
) -> list[float]:
    rewards = [-kl_coef * kl * mask for kl, mask in sample]
    places = [t for t, (_, mask) in enumerate(sample) if mask or not at_last_unmasked]
    if places:
        rewards[places[-1]] += outcome
    return rewards


@settings(deadline=None)
@given(samples=ragged(value), data=st.data(), kl_coef=rate, gamma=rate, at_last_unmasked=st.booleans())
def test_token_rewards_and_their_discounted_returns_equal_the_loops(
    samples: Samples, data: st.DataObject, kl_coef: float, gamma: float, at_last_unmasked: bool
) -> None:
    outcomes = outcomes_for(samples, data.draw)
    (kl, mask), cu = pack(samples, 2)
    given_outcomes = torch.tensor(outcomes, dtype=torch.float64)
    by_hand = [
        rewards_by_hand(sample, outcome, kl_coef, at_last_unmasked)
        for sample, outcome in zip(samples, outcomes, strict=True)
    ]
    rewards = token_rewards(given_outcomes, kl, mask, cu, kl_coef=kl_coef, at_last_unmasked=at_last_unmasked)
    assert rewards.tolist() == pytest.approx(flat(by_hand), abs=1e-9)
    returns: list[list[float]] = []
    for each in by_hand:
        total, backwards = 0.0, []
        for reward in reversed(each):
            total = reward + gamma * total
            backwards.append(total)
        returns.append(backwards[::-1])
    assert discounted_returns(rewards, cu, discount=gamma).tolist() == pytest.approx(flat(returns), abs=1e-9)
    if at_last_unmasked:
        found = reinforce_plus_plus_returns(given_outcomes, kl, mask, cu, kl_coef=kl_coef, gamma=gamma)
        assert found.tolist() == pytest.approx(flat(returns), abs=1e-9)


@given(samples=ragged(value), data=st.data(), kl_coef=rate)
def test_the_baseline_form_takes_the_penalty_from_every_token_that_counts(
    samples: Samples, data: st.DataObject, kl_coef: float
) -> None:
    outcomes = outcomes_for(samples, data.draw)
    (kl, mask), cu = pack(samples, 2)
    found = baseline_advantages(torch.tensor(outcomes, dtype=torch.float64), kl, mask, cu, kl_coef=kl_coef)
    expected = [
        outcome - kl_coef * k * bit for sample, outcome in zip(samples, outcomes, strict=True) for k, bit in sample
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(samples=ragged(value, value), gamma=rate, lambd=rate)
def test_generalised_advantages_equal_the_loop(samples: Samples, gamma: float, lambd: float) -> None:
    (rewards, values, _), cu = pack(samples, 3)
    advantages, returns = generalized_advantages(rewards, values, cu, gamma=gamma, lambd=lambd)
    expected: list[list[float]] = []
    for sample in samples:
        found, following_value, following = [], 0.0, 0.0
        for reward, worth, _ in reversed(sample):
            following = reward + gamma * following_value - worth + gamma * lambd * following
            following_value = worth
            found.append(following)
        expected.append(found[::-1])
    assert advantages.tolist() == pytest.approx(flat(expected), abs=1e-9)
    worths = [worth for sample in samples for _, worth, _ in sample]
    assert returns.tolist() == pytest.approx([a + v for a, v in zip(flat(expected), worths, strict=True)], abs=1e-9)


def test_with_lambda_and_gamma_1_the_return_is_the_sum_of_the_rewards_to_come() -> None:
    rewards, values = torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([0.3, -0.2, 0.9, 4.0])
    _, returns = generalized_advantages(rewards, values, torch.tensor([0, 3, 4]), gamma=1.0, lambd=1.0)
    assert returns.tolist() == pytest.approx([6, 5, 3, 5])


def test_returns_of_a_long_response_do_not_drift() -> None:
    length, discount = 5000, 0.999
    rewards = torch.zeros(length, dtype=torch.float64)
    rewards[-1] = 1.0
    found = discounted_returns(rewards, torch.tensor([0, length]), discount=discount)
    assert found[0].item() == pytest.approx(discount ** (length - 1), rel=1e-9)


@given(parts=st.lists(ragged(value), min_size=1, max_size=3))
def test_whitening_uses_the_moments_of_the_tokens_that_count_wherever_they_are(parts: list[Samples]) -> None:
    kept = [v for samples in parts for sample in samples for v, bit in sample if bit]
    packed = [pack(samples, 2)[0] for samples in parts]
    total = torch.stack([whitening_sums(values, mask) for values, mask in packed]).sum(0)
    if not kept:
        with pytest.raises(ValueError, match="not one token"):
            whiten(packed[0][0], total)
        return
    mean = statistics.fmean(kept)
    variance = statistics.variance(kept) if len(kept) > 1 else 0.0
    for samples, (values, _) in zip(parts, packed, strict=True):
        expected = [(v - mean) / math.sqrt(variance + 1e-8) for sample in samples for v, _ in sample]
        assert whiten(values, total).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_what_is_masked_cannot_spoil_the_moments() -> None:
    sums = whitening_sums(torch.tensor([1.0, math.nan, 3.0]), torch.tensor([1.0, 0.0, 1.0]))
    assert sums.tolist() == [2.0, 4.0, 10.0]
