import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.rollout.estimates import ks_of, mean_interval, pass_at_k, summarize


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(1, 9))
def test_pass_at_k_is_the_fraction_of_subsets_with_a_pass(passed: list[bool], k: int) -> None:
    if k > len(passed):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(len(passed), sum(passed), k)
        return
    subsets = list(itertools.combinations(passed, k))
    assert pass_at_k(len(passed), sum(passed), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_the_interval_is_that_of_a_textbook() -> None:
    # Ten values with mean 5.5 and standard deviation 3.0277: 1.96 × 3.0277 / √10.
    mean, half = mean_interval([float(value) for value in range(1, 11)])
    assert mean == 5.5
    assert half == pytest.approx(1.8765, abs=1e-3)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert mean_interval([2.0])[0] == 2.0
    assert math.isnan(mean_interval([2.0])[1])
    assert math.isnan(mean_interval([])[0])


def test_k_goes_up_in_powers_of_two_to_the_number_of_samples() -> None:
    assert ks_of(1) == [1]
    assert ks_of(8) == [1, 2, 4, 8]
    assert ks_of(6) == [1, 2, 4, 6]
    assert ks_of(0) == []


def test_prompts_count_alike_whatever_their_number_of_samples() -> None:
    found = summarize([[1.0, 0.0, 0.0, 0.0], [0.6 + 0.3 + 0.1, 1.0], []], pass_reward=1.0)
    assert found["reward"] == pytest.approx((0.25 + 1.0) / 2)
    assert found["pass@1"] == pytest.approx((0.25 + 1.0) / 2)
    assert found["pass@2"] == pytest.approx((1 - math.comb(3, 2) / math.comb(4, 2) + 1.0) / 2)
    assert found["pass@4"] == 1.0
    assert found["reward_ci95"] == pytest.approx(1.959964 * statistics.stdev([0.25, 1.0]) / math.sqrt(2))
