"""In which order rows are handed out. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

EXACT_ROWS = 1 << 20
"""Up to this many rows every order is equally likely, for four bytes a row."""
_ROUNDS = 6
_MASK = (1 << 64) - 1


@dataclass(slots=True)
class Cursor:
    """Where one data set stands."""

    epoch: int = 0
    offset: int = 0
    """Rows of this epoch that were handed out."""
    drawn: int = 0
    """Rows in all."""


def order_of(num_rows: int, *, shuffle: bool, seed: int, epoch: int) -> Callable[[int], int]:
    """From a place in an epoch to the row that stands there.

    Above ``EXACT_ROWS`` rows the order is computed row by row, in constant memory.
    """
    if not shuffle:
        return lambda place: place
    if num_rows <= EXACT_ROWS:
        rows = np.random.default_rng([seed, epoch]).permutation(np.arange(num_rows, dtype=np.uint32))
        return lambda place: int(rows[place])
    return feistel(num_rows, seed=seed, epoch=epoch)


def feistel(num_rows: int, *, seed: int, epoch: int) -> Callable[[int], int]:
    """A permutation of ``range(num_rows)`` that needs no table: a balanced Feistel network over the next power of
    four, walked on until it falls into the range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002;
    less than four steps on average)."""
    keys = [int(key) for key in np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)]
    half = max(1, (max(num_rows - 1, 1).bit_length() + 1) // 2)
    low = (1 << half) - 1

    def row(place: int) -> int:
        while True:
            left, right = place >> half, place & low
            for key in keys:
                left, right = right, left ^ (_mix(right ^ key) & low)
            place = left << half | right
            if place < num_rows:
                return place

    return row


def _mix(value: int) -> int:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


def next_of(weights: Sequence[float], drawn: Sequence[int]) -> int:
    """Which data set of a mixture comes next: the one that is furthest behind its share.

    Each has had its share of all rows within a constant, for ever. Follows from ``drawn`` alone, so that a resumed run
    goes on the same way.
    """
    share = (sum(drawn) + 1) / sum(weights)
    return max(range(len(weights)), key=lambda i: (weights[i] * share - drawn[i], -i))
