"""Random packed responses: samples of any length with masks of any kind, and the same as lists."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

type Token = tuple[float, ...]

masks = st.integers(0, 1)


def ragged(*columns: st.SearchStrategy[float], max_samples: int = 5, max_tokens: int = 7) -> st.SearchStrategy:
    """Lists of samples, each a list of tokens with one value per column; the last column is the mask. A sample may
    have no token, one, or none that counts."""
    return st.lists(
        st.lists(st.tuples(*columns, masks), min_size=0, max_size=max_tokens), min_size=1, max_size=max_samples
    )


def pack(samples: Sequence[Sequence[Token]], width: int) -> tuple[list[Tensor], Tensor]:
    """``width`` columns of shape [T] in float64, and cu_lengths."""
    tokens = [token for sample in samples for token in sample]
    columns = [torch.tensor([token[i] for token in tokens], dtype=torch.float64) for i in range(width)]
    lengths = torch.tensor([0, *(len(sample) for sample in samples)], dtype=torch.int32)
    return columns, lengths.cumsum(0, dtype=torch.int32)


def flat(samples: Sequence[Sequence[float]]) -> list[float]:
    return [value for sample in samples for value in sample]
