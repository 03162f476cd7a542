"""Packed micro-batches and packed attention, against samples taken one by one."""

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from trainers.megatron.attention import PackedAttention, PackedSequences, ZigZag
from trainers.megatron.packing import TokenSplit, _zigzag_tokens, pack
from trainers.protocols import TrainSample


def _sample(prompt: list[int], response: list[int], mask: list[int], advantage: float) -> TrainSample:
    return TrainSample(
        tokens=np.array([*prompt, *response], np.int32),
        loss_mask=np.array(mask, np.float32),
        rollout_log_probs=-np.arange(len(response), dtype=np.float32),
        advantage=advantage,
    )


def test_each_response_token_stands_at_the_row_that_predicts_it() -> None:
    batch = pack([_sample([1, 2, 3], [4, 5], [1, 0], 0.5), _sample([6], [7, 8, 9], [1, 1, 1], -1.0)], "cpu")
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert batch.rows.tolist() == [2, 3, 5, 6, 7]
    assert batch.targets.tolist() == [4, 5, 7, 8, 9]
    assert batch.loss_mask.tolist() == [1, 0, 1, 1, 1]
    assert batch.rollout_log_probs.tolist() == [0, -1, 0, -1, -2]
    assert batch.advantages.tolist() == [0.5, 0.5, -1, -1, -1]
    assert batch.cu_responses.tolist() == [0, 2, 5]
    assert batch.num_samples == 2


@pytest.mark.parametrize("lengths", [[5], [7, 7, 7], [3, 17, 4, 200, 1, 16, 90, 4]])
def test_packed_attention_equals_attention_one_sequence_at_a_time(lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    total, heads, groups, dim = sum(lengths), 4, 2, 8
    q, k, v = (torch.randn(total, 1, n, dim, generator=generator, requires_grad=True) for n in (heads, groups, groups))
    weights = torch.randn(total, 1, heads * dim, generator=generator)

    expected = torch.cat(
        [
            F.scaled_dot_product_attention(
                *(part[:, 0].transpose(0, 1)[None] for part in parts), is_causal=True, enable_gqa=True
            )[0]
            .transpose(0, 1)
            .flatten(1)
            for parts in zip(*(tensor.split(lengths) for tensor in (q, k, v)), strict=True)
        ]
    )[:, None]
    expected_gradients = torch.autograd.grad((expected * weights).sum(), [q, k, v])

    attention = PackedAttention(config=None, layer_number=1, attn_mask_type=None, attention_type="self")
    found = attention(q, k, v, packed_seq_params=PackedSequences.of(lengths, "cpu"))
    gradients = torch.autograd.grad((found * weights).sum(), [q, k, v])

    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-5)


def test_many_sequences_of_like_length_share_few_calls() -> None:
    lengths = [10 + index % 20 for index in range(500)]
    packed = PackedSequences.of(lengths, "cpu")
    padded = sum(bucket.batch * bucket.length for bucket in packed.buckets)
    assert len(packed.buckets) <= 6
    assert padded <= 1.35 * sum(lengths)


class _Group:
    """What packing asks of a process group."""

    def __init__(self, rank: int, size: int):
        self._rank, self._size = rank, size

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size


def _split(rank: int, size: int, multiple_of: int) -> TokenSplit:
    group: Any = _Group(rank, size)
    return TokenSplit(rank, size, group, multiple_of)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=6),
    size=st.sampled_from([1, 2, 3, 4]),
    multiple_of=st.sampled_from([1, 2, 4]),
)
def test_ranks_share_every_token_and_every_response_once(
    shapes: list[tuple[int, int]], size: int, multiple_of: int
) -> None:
    numbers = iter(range(1, 10_000))
    samples = [
        _sample([next(numbers) for _ in range(prompt)], [next(numbers) for _ in range(response)], [1] * response, 0.0)
        for prompt, response in shapes
    ]
    whole = pack(samples, "cpu")
    parts = [pack(samples, "cpu", _split(rank, size, multiple_of)) for rank in range(size)]
    assert len({part.tokens.shape for part in parts}) == 1
    assert parts[0].tokens.shape[1] % multiple_of == 0
    held = [token for part in parts for token in part.tokens[0].tolist() if token]
    assert sorted(held) == (whole.tokens[0].tolist() if samples else [])
    position_of = dict(zip(whole.tokens[0].tolist(), whole.positions[0].tolist(), strict=True))
    row_of = dict(zip(whole.targets.tolist(), whole.tokens[0][whole.rows].tolist(), strict=True))
    places: list[int] = []
    for part in parts:
        for token, position in zip(part.tokens[0].tolist(), part.positions[0].tolist(), strict=True):
            assert token == 0 or position == position_of[token]
        # Each row holds the token before the one that it predicts.
        assert part.tokens[0][part.rows].tolist() == [row_of[target] for target in part.targets.tolist()]
        places += list(range(len(whole.targets))) if part.places is None else part.places.tolist()
        assert part.num_tokens == sum(map(sum, shapes))
        assert torch.equal(part.loss_mask, whole.loss_mask)
    assert sorted(places) == list(range(len(whole.targets)))


@pytest.mark.parametrize("size", [2, 3])
def test_attention_shared_by_ranks_equals_attention_of_one(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gathering of keys and values is played by hand: one rank's after the other's."""
    generator = torch.Generator().manual_seed(0)
    lengths, heads, groups, dim = [2 * size, 8 * size, 4 * size], 4, 2, 8
    total = sum(lengths)
    q, k, v = (torch.randn(total, 1, n, dim, generator=generator) for n in (heads, groups, groups))
    attention = PackedAttention(config=None, layer_number=1, attn_mask_type=None, attention_type="self")
    expected = attention(q, k, v, packed_seq_params=PackedSequences.of(lengths, "cpu"))

    starts = np.cumsum(lengths) - lengths
    mine = [_zigzag_tokens(starts, np.array(lengths), _split(rank, size, 1)) for rank in range(size)]
    gathered = torch.cat([torch.cat([k, v], -1)[part, 0] for part in mine])
    tensor_parallel = types.ModuleType("megatron.core.tensor_parallel")
    tensor_parallel.gather_from_sequence_parallel_region = lambda local, group: gathered  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "megatron.core.tensor_parallel", tensor_parallel)
    for rank, part in enumerate(mine):
        group: Any = _Group(rank, size)
        sequences = PackedSequences.of(lengths, "cpu", ZigZag.of(lengths, rank, group, "cpu"))
        found = attention(q[part], k[part], v[part], packed_seq_params=sequences)
        torch.testing.assert_close(found, expected[part], atol=1e-6, rtol=1e-5)
