"""RMSNorm, for hidden states and for the heads of queries and keys."""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / √(mean x² + ε) · weight over the last dimension, computed in float32 (Zhang & Sennrich 2019,
    arXiv:1910.07467).

    Built by Megatron's layer specs. Unlike torch's module, its weight tells Megatron when it sees only a part of the
    sequence, so that its gradient is summed over the tensor-parallel ranks.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """As Megatron's checkpoints ask for. Without it, they take the weight of a norm inside an MLP for one that each
        tensor-parallel rank has of its own."""
        return make_sharded_tensors_for_checkpoint(self.state_dict(keep_vars=True), prefix, {}, sharded_offsets)


class HeadNorm(RMSNorm):
    """Of the heads of queries or of keys: holds the weight for the attention around it, which normalises where it
    rotates."""

    def forward(self, x: Tensor) -> Tensor:
        return x
