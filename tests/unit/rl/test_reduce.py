"""Reductions over packed responses against loops over lists."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.rl.reduce import masked_sum, sum_of_sample_means

response = st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 1)), min_size=0, max_size=8)
responses = st.lists(response, min_size=1, max_size=8)
type Response = list[tuple[float, int]]


def packed(samples: list[Response]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = [token for sample in samples for token in sample]
    cu = [0]
    for sample in samples:
        cu.append(cu[-1] + len(sample))
    values = torch.tensor([value for value, _ in tokens], dtype=torch.float64)
    mask = torch.tensor([bit for _, bit in tokens], dtype=torch.float32)
    return values, mask, torch.tensor(cu, dtype=torch.int32)


def means_by_hand(samples: list[Response]) -> float:
    total = 0.0
    for sample in samples:
        kept = [value for value, bit in sample if bit]
        total += sum(kept) / len(kept) if kept else 0.0
    return total


@given(samples=responses)
def test_sample_means_and_token_sums_equal_the_loops(samples: list[Response]) -> None:
    values, mask, cu = packed(samples)
    assert sum_of_sample_means(values, mask, cu).item() == pytest.approx(means_by_hand(samples), abs=1e-9)
    token_sum = sum(value for sample in samples for value, bit in sample if bit)
    assert masked_sum(values, mask).item() == pytest.approx(token_sum, abs=1e-9)


@given(samples=responses, at=st.integers(0, 8))
def test_the_parts_of_any_split_add_up_to_the_whole(samples: list[Response], at: int) -> None:
    whole = sum_of_sample_means(*packed(samples)).item()
    parts = [part for part in (samples[:at], samples[at:]) if part]
    assert sum(sum_of_sample_means(*packed(part)).item() for part in parts) == pytest.approx(whole, abs=1e-9)


def test_each_token_gets_the_gradient_of_its_samples_mean() -> None:
    values = torch.arange(5, dtype=torch.float32, requires_grad=True)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    sum_of_sample_means(values, mask, torch.tensor([0, 3, 4, 5])).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5, 0.0, 0.0]


def test_what_is_masked_cannot_spoil_the_sum() -> None:
    values = torch.tensor([1.0, math.nan, math.inf], requires_grad=True)
    total = masked_sum(values, torch.tensor([1.0, 0.0, 0.0]))
    total.backward()
    assert total.item() == 1.0
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 0.0]
