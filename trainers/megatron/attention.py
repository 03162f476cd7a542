"""Causal attention over sequences that are packed end to end, without Transformer Engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
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


@dataclass(frozen=True, slots=True)
class ZigZag:
    """How one of C context-parallel ranks attends with its part of each sequence: chunks r and 2C−1−r of 2C, each to
    the keys of all chunks up to its own.

    Keys come from all ranks, one rank's after the other's. ``keys`` picks those of every chunk in turn, so that chunk
    j's queries are rows ``cu_queries[j]:cu_queries[j + 1]`` and its keys ``cu_keys[j]:cu_keys[j + 1]`` of the picked
    ones, the last query's own key last.
    """

    group: dist.ProcessGroup
    keys: Tensor
    cu_queries: Tensor
    cu_keys: Tensor
    query_lengths: list[int]
    key_lengths: list[int]

    @classmethod
    def of(cls, lengths: Sequence[int], rank: int, group: dist.ProcessGroup, device: torch.device | str) -> "ZigZag":
        """``lengths`` of the sequences, multiples of 2C."""
        size = group.size()
        per_rank = sum(lengths) // size
        keys: list[Tensor] = []
        query_lengths: list[int] = []
        key_lengths: list[int] = []
        start = 0
        for length in lengths:
            chunk = length // (2 * size)
            number = torch.arange(2 * size)
            late = number >= size
            owner = torch.where(late, 2 * size - 1 - number, number)
            begin = owner * per_rank + start + late * chunk
            whole = (begin[:, None] + torch.arange(chunk)).flatten()
            for last in (rank, 2 * size - 1 - rank):
                keys.append(whole[: (last + 1) * chunk])
                query_lengths.append(chunk)
                key_lengths.append((last + 1) * chunk)
            start += 2 * chunk
        return cls(
            group,
            torch.cat(keys).to(device),
            _cumulative(query_lengths, device),
            _cumulative(key_lengths, device),
            query_lengths,
            key_lengths,
        )


def _cumulative(lengths: Sequence[int], device: torch.device | str) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)


@dataclass(frozen=True, slots=True)
class PackedSequences:
    """Where the sequences of a micro-batch begin and end.

    To Megatron it is its ``PackedSeqParams`` (whose import alone takes many seconds), in a format of our own: rotary
    embeddings come per token (see model.py) rather than sequence by sequence, and hidden states keep their shape
    [T, 1, H] throughout.
    """

    cu_lengths: Tensor
    """[N + 1], int32."""
    max_length: int
    buckets: list[Bucket]
    order: Tensor | None
    """[T]: where each packed token is in the concatenated buckets; None for one bucket that keeps the order."""
    zigzag: ZigZag | None = None
    """Where ranks share the sequences; there are no buckets then."""
    positions: Tensor | None = None
    """[T]: of each of this rank's tokens in its sequence, for layers that rotate by themselves."""
    qkv_format: str = "sbhd"
    cp_group: None = None

    @property
    def max_seqlen_q(self) -> int:
        return self.max_length

    @property
    def max_seqlen_kv(self) -> int:
        return self.max_length

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device | str,
        zigzag: ZigZag | None = None,
        positions: Tensor | None = None,
    ) -> "PackedSequences":
        cu_lengths = torch.tensor([0, *lengths]).cumsum(0)
        if zigzag is not None:
            return cls(cu_lengths.to(device, torch.int32), max(lengths), [], None, zigzag, positions)
        buckets = [_bucket(members, cu_lengths.tolist(), device) for members in _similar(lengths)]
        order = None
        if len(buckets) > 1:
            order = torch.cat([bucket.tokens for bucket in buckets]).argsort()
        return cls(cu_lengths.to(device, torch.int32), max(lengths), buckets, order, None, positions)


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
    [T, 1, heads · head_dim]; key and value may have fewer heads, and value heads of another width."""

    def __init__(
        self,
        config: Any,
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
        if packed_seq_params.zigzag is not None:
            context = _zigzag(query, key, value, packed_seq_params.zigzag, self._scale)
        elif query.is_cuda and query.dtype is not torch.float32:
            context = _varlen(query, key, value, packed_seq_params, self._scale)
        else:
            context = _padded(query, key, value, packed_seq_params, self._scale)
        return context.reshape(context.shape[0], 1, -1)


def _varlen(query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float | None) -> Tensor:
    cu, longest = packed.cu_lengths, packed.max_length
    return _causal(query, key, value, cu, cu, longest, longest, scale)


def _causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_queries: Tensor,
    cu_keys: Tensor,
    max_queries: int,
    max_keys: int,
    scale: float | None,
) -> Tensor:
    """Where a sequence has more keys than queries, the last query sees the last key."""
    width = value.shape[-1]
    if width < query.shape[-1]:  # the kernel wants heads of one width
        value = F.pad(value, (0, query.shape[-1] - width))
    lengths = cu_queries, cu_keys, max_queries, max_keys
    # What torch.nn.attention.varlen calls, without the two layers of Python around it, which the GPU waits for.
    context, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, *lengths, dropout_p=0.0, is_causal=True, return_debug_mask=False, scale=scale
    )
    return context[..., :width]


def _zigzag(query: Tensor, key: Tensor, value: Tensor, zigzag: ZigZag, scale: float | None) -> Tensor:
    from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

    # Summed over the ranks on the way back, as each rank's queries use all keys.
    both: Any = gather_from_sequence_parallel_region(torch.cat([key, value], dim=-1), group=zigzag.group)
    key, value = both.index_select(0, zigzag.keys).split([key.shape[-1], value.shape[-1]], dim=-1)
    if query.is_cuda and query.dtype is not torch.float32:
        longest = max(zigzag.query_lengths), max(zigzag.key_lengths)
        return _causal(query, key.contiguous(), value.contiguous(), zigzag.cu_queries, zigzag.cu_keys, *longest, scale)
    contexts: list[Tensor] = []
    chunks = zip(
        query.split(zigzag.query_lengths), key.split(zigzag.key_lengths), value.split(zigzag.key_lengths), strict=True
    )
    for parts in chunks:
        q, k, v = (part.transpose(0, 1)[None] for part in parts)
        sees = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=sees, enable_gqa=True, scale=scale)
        contexts.append(context[0].transpose(0, 1))
    return torch.cat(contexts)


def _padded(query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float | None) -> Tensor:
    """One call per bucket. Padding comes after a sequence, where the causal mask hides it from every real token."""
    contexts: list[Tensor] = []
    for bucket in packed.buckets:
        q, k, v = (_pad(tensor, bucket, take=packed.order is not None) for tensor in (query, key, value))
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=scale)
        contexts.append(context.transpose(1, 2).flatten(0, 1).index_select(0, bucket.slots))
    if packed.order is None:
        return contexts[0]
    return torch.cat(contexts).index_select(0, packed.order)


def _pad(tensor: Tensor, bucket: Bucket, *, take: bool) -> Tensor:
    """[T, heads, d] → [B, heads, L, d]."""
    rows = tensor.index_select(0, bucket.tokens) if take else tensor
    slots = tensor.new_zeros(bucket.batch * bucket.length, *tensor.shape[1:])
    return slots.index_copy(0, bucket.slots, rows).unflatten(0, (bucket.batch, bucket.length)).transpose(1, 2)
