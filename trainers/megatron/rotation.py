"""Queries and keys, normalised and rotated: on a GPU in one compiled call a layer, where each of the four steps by
itself would read and write them all."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor


class RotatedAttention(SelfAttention):
    """Self-attention that leaves Megatron only the rotations that are out of the ordinary. Its norms of queries and
    keys, where it has them, are :class:`trainers.megatron.norm.HeadNorm`."""

    _angles: Tensor | None = None

    def forward(self, *args: Any, rotary_pos_emb: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        config: Any = self.config
        if not config.rotary_interleaved and not config.no_rope_freq and self._yarn_concentration_factor == 1.0:
            self._angles, rotary_pos_emb = rotary_pos_emb, None  # for the method below, which the next line calls
        return super().forward(*args, rotary_pos_emb=rotary_pos_emb, **kwargs)

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        query, key, *rest = super().get_query_key_value_tensors(*args, **kwargs)
        angles, self._angles = self._angles, None
        cos, sin = (None, None) if angles is None else _cos_sin(angles, query.dtype)
        norms: Any = self.q_layernorm, self.k_layernorm
        weights = (None if norm is None else norm.weight for norm in norms)
        turn: Any = _compiled() if query.is_cuda else normalised_and_rotated
        return *turn(query, key, *weights, self.config.layernorm_epsilon, cos, sin), *rest


def normalised_and_rotated(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor | None,
    key_weight: Tensor | None,
    epsilon: float,
    cos: Tensor | None,
    sin: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``query`` and ``key``, [T, 1, heads, D], with the RMS norms of these weights, [D] each, and turned by the angles
    whose cosines and sines are [T, 1, 1, at most D]; None leaves a step out."""
    return _turned(query, query_weight, epsilon, cos, sin), _turned(key, key_weight, epsilon, cos, sin)


def _turned(t: Tensor, weight: Tensor | None, epsilon: float, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    if weight is not None:
        t = F.rms_norm(t, weight.shape, weight, epsilon)
    return t if cos is None or sin is None else rotate(t, cos, sin)


def rotate(t: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first half of the rotated dimensions with the second, as NeoX and Hugging Face pair them."""
    width = cos.shape[-1]
    turned, rest = t[..., :width], t[..., width:]
    half = torch.cat((-turned[..., width // 2 :], turned[..., : width // 2]), dim=-1)
    return torch.cat((turned * cos + half * sin, rest), dim=-1)


def _cos_sin(angles: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of the angles, which all layers of a micro-batch share."""
    held: Any = angles
    if getattr(held, "_cos_sin", None) is None or held._cos_sin[0].dtype is not dtype:
        held._cos_sin = (angles.cos().to(dtype), angles.sin().to(dtype))
    return held._cos_sin


@functools.cache
def _compiled() -> Any:
    return torch.compile(normalised_and_rotated)  # for any number of tokens, and one shape of heads
