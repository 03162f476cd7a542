"""Which samples form which micro-batch of which rank and step. Pure."""

import heapq
import math
from collections.abc import Sequence

from trainers.errors import ConfigInvalid
from trainers.protocols import MicroBatchPlan


def plan_micro_batches(
    lengths: Sequence[int], *, global_batch_size: int, data_parallel_size: int, max_tokens: int
) -> MicroBatchPlan:
    """Split samples of these token counts into optimizer steps, ranks and micro-batches.

    Step s takes samples [s·global_batch_size, (s+1)·global_batch_size). Within a step each sample is in exactly
    one micro-batch; all ranks have the same number of them, none is empty, and none holds more than
    ``max_tokens`` except one longer sample alone. These can only hold together when the data-parallel size
    divides the global batch size, so anything else is :class:`ConfigInvalid`.
    """
    if global_batch_size % data_parallel_size:
        raise ConfigInvalid(
            f"trainer.global_batch_size ({global_batch_size}) must be a multiple of the number of "
            f"data-parallel ranks ({data_parallel_size}): every rank takes part in every step"
        )
    if not lengths or len(lengths) % global_batch_size:
        raise ConfigInvalid(
            f"trainer.global_batch_size ({global_batch_size}) must divide the samples of a rollout ({len(lengths)})"
        )
    steps: list[list[list[list[int]]]] = []
    for start in range(0, len(lengths), global_batch_size):
        positions = range(start, start + global_batch_size)
        micro_batches = _micro_batches(lengths, positions, data_parallel_size, max_tokens)
        steps.append(_deal(lengths, micro_batches, data_parallel_size))
    return MicroBatchPlan(steps)


def _micro_batches(lengths: Sequence[int], positions: Sequence[int], ranks: int, max_tokens: int) -> list[list[int]]:
    """The fewest even micro-batches, a multiple of ``ranks``, that all fit."""
    short = [lengths[i] for i in positions if lengths[i] <= max_tokens]
    at_least = len(positions) - len(short) + math.ceil(sum(short) / max_tokens)
    first = max(1, math.ceil(at_least / ranks)) * ranks
    for count in range(first, len(positions), ranks):
        candidate = _spread(lengths, positions, count)
        if all(len(batch) == 1 or sum(lengths[i] for i in batch) <= max_tokens for batch in candidate):
            return candidate
    return [[i] for i in positions]


def _spread(lengths: Sequence[int], positions: Sequence[int], count: int) -> list[list[int]]:
    """Longest first, each sample to the micro-batch with the fewest tokens so far."""
    batches: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for position in sorted(positions, key=lambda i: (-lengths[i], i)):
        tokens, number = heap[0]
        batches[number].append(position)
        heapq.heapreplace(heap, (tokens + lengths[position], number))
    return [sorted(batch) for batch in batches]


def _deal(lengths: Sequence[int], micro_batches: list[list[int]], ranks: int) -> list[list[list[int]]]:
    """Largest first, each micro-batch to the rank with the fewest tokens that still needs one."""
    each = len(micro_batches) // ranks
    tokens = {id(batch): sum(lengths[i] for i in batch) for batch in micro_batches}
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for batch in sorted(micro_batches, key=lambda batch: (-tokens[id(batch)], batch)):
        rank = min((r for r in range(ranks) if len(dealt[r]) < each), key=lambda r: (loads[r], r))
        dealt[rank].append(batch)
        loads[rank] += tokens[id(batch)]
    return dealt
