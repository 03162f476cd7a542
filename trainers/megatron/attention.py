"""Causal attention over sequences that are packed end to end, without Transformer Engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

# Sequences share a padded batch when the shortest is at least this part of the longest: padding costs less than
# 1/0.7 of the work, and a call of its own for every sequence costs far more.
LENGTH_RATIO = 0.7
# A bucket holds at most this many padded tokens, so that one long sequence does not inflate many.
BUCKET_TOKENS = 16384


@dataclass(frozen=True, slots=True)
class Bucket:
    """B sequences of similar length, padded to L: ``slots[j]`` of B·L is where packed token ``tokens[j]`` goes."""

    batch: int
    length: int
    tokens: Tensor
    slots: Tensor


@dataclass
class PackedSequences(PackedSeqParams):
    """Where the sequences of a micro-batch begin and end.

    The format is not Megatron's ``thd``: rotary embeddings come per token (see model.py) rather than sequence by
    sequence, so that hidden states keep their shape [T, 1, H] throughout.
    """

    buckets: list[Bucket] = field(default_factory=list[Bucket])
    order: Tensor | None = None
    """[T]: where each packed token is in the concatenated buckets; None for one bucket that keeps the order."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> "PackedSequences":
        cu_lengths = torch.tensor([0, *lengths]).cumsum(0)
        buckets = [_bucket(members, cu_lengths.tolist(), device) for members in _similar(lengths)]
        order = None
        if len(buckets) > 1:
            order = torch.cat([bucket.tokens for bucket in buckets]).argsort()
        packed = cls(
            qkv_format="sbhd",
            cu_seqlens_q=cu_lengths.to(device, torch.int32),
            cu_seqlens_kv=cu_lengths.to(device, torch.int32),
            max_seqlen_q=max(lengths),
            max_seqlen_kv=max(lengths),
        )
        packed.buckets, packed.order = buckets, order
        return packed


def _similar(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of the sequences, grouped longest first."""
    groups: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups:
            longest = lengths[groups[-1][0]]
            fits = (len(groups[-1]) + 1) * longest <= BUCKET_TOKENS
            if fits and lengths[position] >= LENGTH_RATIO * longest:
                groups[-1].append(position)
                continue
        groups.append([position])
    return [sorted(group) for group in groups]


def _bucket(members: list[int], cu_lengths: list[int], device: torch.device | str) -> Bucket:
    spans = [(cu_lengths[i], cu_lengths[i + 1]) for i in members]
    length = max(end - start for start, end in spans)
    tokens = torch.cat([torch.arange(start, end) for start, end in spans])
    slots = torch.cat([torch.arange(end - start) + row * length for row, (start, end) in enumerate(spans)])
    return Bucket(len(members), length, tokens.to(device), slots.to(device))


class PackedAttention(nn.Module):
    """Megatron's core attention. Query, key and value come as [T, 1, heads, head_dim], the result is
    [T, 1, heads · head_dim]; key and value may have fewer heads."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        softmax_scale: float | None = None,
        **_: Any,
    ):
        super().__init__()
        self._scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *,
        packed_seq_params: PackedSequences,
        **_: Any,
    ) -> Tensor:
        query, key, value = query.squeeze(1), key.squeeze(1), value.squeeze(1)
        if query.is_cuda and query.dtype is not torch.float32:
            context = _varlen(query, key, value, packed_seq_params, self._scale)
        else:
            context = _padded(query, key, value, packed_seq_params, self._scale)
        return context.reshape(context.shape[0], 1, -1)


def _varlen(query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    assert packed.cu_seqlens_q is not None and packed.max_seqlen_q is not None
    return varlen_attn(
        query,
        key,
        value,
        packed.cu_seqlens_q,
        packed.cu_seqlens_q,
        packed.max_seqlen_q,
        packed.max_seqlen_q,
        scale=scale,
        window_size=(-1, 0),
    )


def _padded(query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float | None) -> Tensor:
    """One call per bucket. Padding comes after a sequence, where the causal mask hides it from every real token."""
    contexts: list[Tensor] = []
    for bucket in packed.buckets:
        batch = [_pad(tensor, bucket, take=packed.order is not None) for tensor in (query, key, value)]
        context = F.scaled_dot_product_attention(*batch, is_causal=True, enable_gqa=True, scale=scale)
        contexts.append(context.transpose(1, 2).flatten(0, 1).index_select(0, bucket.slots))
    if packed.order is None:
        return contexts[0]
    return torch.cat(contexts).index_select(0, packed.order)


def _pad(tensor: Tensor, bucket: Bucket, *, take: bool) -> Tensor:
    """[T, heads, d] → [B, heads, L, d]."""
    rows = tensor.index_select(0, bucket.tokens) if take else tensor
    slots = tensor.new_zeros(bucket.batch * bucket.length, *tensor.shape[1:])
    return slots.index_copy(0, bucket.slots, rows).unflatten(0, (bucket.batch, bucket.length)).transpose(1, 2)
