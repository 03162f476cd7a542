"""Tensors packed for the wire: few, large, bounded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from engines.protocols import TensorMeta


@dataclass(frozen=True, slots=True)
class Bucket:
    metas: list[TensorMeta]
    flat: torch.Tensor
    """uint8, the tensors' bytes one after the other, in the order of ``metas``."""


def buckets(
    named_tensors: Iterable[tuple[str, torch.Tensor]], *, bucket_bytes: int, device: torch.device | str
) -> Iterator[Bucket]:
    """Pack in the order given, at most ``bucket_bytes`` each; a larger tensor travels alone.

    Inside a bucket wider element types come first, so that the receiver can view each tensor in place: an offset
    must be a multiple of the element size.
    """
    pending: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in named_tensors:
        if pending and size + tensor.nbytes > bucket_bytes:
            yield _flatten(pending, size, device)
            pending, size = [], 0
        pending.append((name, tensor.detach()))
        size += tensor.nbytes
    if pending:
        yield _flatten(pending, size, device)


def _flatten(named: list[tuple[str, torch.Tensor]], size: int, device: torch.device | str) -> Bucket:
    named.sort(key=lambda pair: -pair[1].element_size())  # stable
    flat = torch.empty(size, dtype=torch.uint8, device=device)
    metas: list[TensorMeta] = []
    offset = 0
    for name, tensor in named:
        end = offset + tensor.nbytes
        flat[offset:end].view(tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=True)
        metas.append(TensorMeta(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")))
        offset = end
    return Bucket(metas, flat)
