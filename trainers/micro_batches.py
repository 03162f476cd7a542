"""Which samples form which micro-batch of which rank and step. Pure."""

import heapq
import math
from collections.abc import Sequence

import numpy as np

from trainers.errors import ConfigInvalid
from trainers.protocols import MicroBatchPlan

ATTENTION_LENGTH = 32768
"""Tokens of a sample whose attention costs as much as all else: 12 × the hidden size, here that of a model of 3B."""


def plan_micro_batches(
    lengths: Sequence[int],
    *,
    global_batch_size: int,
    data_parallel_size: int,
    max_tokens: int | None = None,
    micro_batch_size: int | None = None,
    multiple_of: int = 1,
    attention_length: int = ATTENTION_LENGTH,
) -> MicroBatchPlan:
    """Split samples of these token counts into optimizer steps, ranks and micro-batches.

    Step s takes samples [s·global_batch_size, (s+1)·global_batch_size); the last step takes what remains. Within a
    step each sample is in exactly one micro-batch, and all ranks have the same number of them, a multiple of
    ``multiple_of``. Exactly one of two limits holds: ``max_tokens`` in a micro-batch, except one longer sample alone,
    or ``micro_batch_size`` samples. Of few samples, some ranks get a micro-batch of none. Ranks carry nearly the same
    cost, that of a sample being its length times (1 + length / ``attention_length``): linear layers and attention.
    """
    if not lengths:
        raise ConfigInvalid("a rollout of no samples cannot be trained on")
    if (max_tokens is None) == (micro_batch_size is None):
        raise ValueError("one of max_tokens and micro_batch_size")
    costs = [length * (1 + length / attention_length) for length in lengths]
    unit = data_parallel_size * multiple_of
    steps: list[list[list[list[int]]]] = []
    for start in range(0, len(lengths), global_batch_size):
        positions = range(start, min(start + global_batch_size, len(lengths)))
        # Longest first; then the order of the rollout.
        order = sorted(positions, key=lambda i: (-lengths[i], i))
        if max_tokens is not None:
            sizes, limit = [min(lengths[i], max_tokens) for i in order], max_tokens
        else:
            assert micro_batch_size is not None
            sizes, limit = [1] * len(order), micro_batch_size
        micro_batches = _micro_batches(order, sizes, [costs[i] for i in order], limit, unit)
        steps.append(_deal(costs, micro_batches, data_parallel_size))
    return MicroBatchPlan(steps)


def _micro_batches(
    order: Sequence[int], sizes: Sequence[int], costs: Sequence[float], limit: int, unit: int
) -> list[list[int]]:
    """Few even micro-batches, a multiple of ``unit``, of which none is larger than ``limit``: with ``unit`` fewer it
    would not have worked."""
    count = math.ceil(math.ceil(sum(sizes) / limit) / unit) * unit
    failed, ahead = count - unit, unit
    found = _spread(order, sizes, costs, limit, count)
    while found is None:
        failed, count, ahead = count, count + ahead, 2 * ahead
        found = _spread(order, sizes, costs, limit, count)
    while (between := (count - failed) // unit) > 1:
        middle = failed + between // 2 * unit
        if (fewer := _spread(order, sizes, costs, limit, middle)) is None:
            failed = middle
        else:
            count, found = middle, fewer
    return found


def _spread(
    order: Sequence[int], sizes: Sequence[int], costs: Sequence[float], limit: int, count: int
) -> list[list[int]] | None:
    """Each sample in turn to the cheapest micro-batch that has room for it; None when there is none."""
    batches = [[position] for position in order[:count]] + [[] for _ in range(count - len(order))]
    room, so_far = np.full(count, limit), np.zeros(count)
    room[: len(order)] -= np.array(sizes[:count])
    so_far[: len(order)] += np.array(costs[:count])
    for position, size, cost in zip(order[count:], sizes[count:], costs[count:], strict=True):
        number = int(np.where(room >= size, so_far, np.inf).argmin())
        if room[number] < size:
            return None
        batches[number].append(position)
        room[number] -= size
        so_far[number] += cost
    return [sorted(batch) for batch in batches]


def _deal(costs: Sequence[float], micro_batches: list[list[int]], ranks: int) -> list[list[list[int]]]:
    """Dearest first, each micro-batch to the rank that has cost least and still needs one."""
    each = len(micro_batches) // ranks
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    heap = [(0.0, rank) for rank in range(ranks)]
    priced = sorted(((sum(costs[i] for i in batch), batch) for batch in micro_batches), key=lambda it: (-it[0], it[1]))
    for cost, batch in priced:
        so_far, rank = heapq.heappop(heap)
        dealt[rank].append(batch)
        if len(dealt[rank]) < each:
            heapq.heappush(heap, (so_far + cost, rank))
    return dealt
