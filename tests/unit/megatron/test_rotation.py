"""Queries and keys come out as from Megatron's own steps."""

import pytest
import torch
from megatron.core.models.common.embeddings import rope_utils
from torch import Tensor

from trainers.megatron.rotation import normalised_and_rotated

EPSILON = 1e-6


def megatrons(t: Tensor, weight: Tensor | None, angles: Tensor | None) -> Tensor:
    if weight is not None:
        t = t * torch.rsqrt(t.square().mean(-1, keepdim=True) + EPSILON) * weight
    return t if angles is None else rope_utils._apply_rotary_pos_emb_bshd(t, angles)


@pytest.mark.parametrize("rotated", [16, 8, None], ids=["whole heads", "half of each", "not at all"])
@pytest.mark.parametrize("normalised", [True, False])
def test_heads_are_normalised_and_turned_with_their_gradients(rotated: int | None, normalised: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    heads = random(11, 1, 3, 16), random(11, 1, 1, 16)
    weights = (random(16), random(16)) if normalised else (None, None)
    angles = None if rotated is None else random(11, 1, 1, rotated // 2).detach().repeat(1, 1, 1, 2)
    leaves = [*heads, *(weight for weight in weights if weight is not None)]
    expected = [megatrons(t, weight, angles) for t, weight in zip(heads, weights, strict=True)]
    cos_sin = (None, None) if angles is None else (angles.cos(), angles.sin())
    found = normalised_and_rotated(*heads, *weights, EPSILON, *cos_sin)
    if not normalised and angles is None:
        assert found == heads
        return
    torch.testing.assert_close(list(found), expected)
    upstream = [random(*t.shape).detach() for t in expected]
    for ours, theirs in zip(
        torch.autograd.grad(list(found), leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
