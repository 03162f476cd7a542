"""In which order rows are handed out. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Cursor:
    """Where one data set stands."""

    epoch: int = 0
    offset: int = 0
    """Rows of this epoch that were handed out."""
    drawn: int = 0
    """Rows in all."""


def order_of(num_rows: int, *, shuffle: bool, seed: int, epoch: int) -> NDArray[np.uint32] | None:
    """The rows of one epoch; None: as they come. Four bytes a row: 40 MB for ten million."""
    if not shuffle:
        return None
    return np.random.default_rng([seed, epoch]).permutation(np.arange(num_rows, dtype=np.uint32))


def next_of(weights: Sequence[float], drawn: Sequence[int]) -> int:
    """Which data set of a mixture comes next: the one that is furthest behind its share.

    After n rows each has had its share of n within one row, for ever: smooth weighted round robin.
    """
    share = (sum(drawn) + 1) / sum(weights)
    return max(range(len(weights)), key=lambda i: (weights[i] * share - drawn[i], -i))
