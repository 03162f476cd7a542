"""Packed micro-batches and packed attention, against samples taken one by one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainers.megatron.attention import PackedAttention, PackedSequences
from trainers.megatron.packing import pack
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
