"""On a GPU, what Megatron leaves to Transformer Engine and Apex: the optimizer's passes over all parameters without a
launch, or a wait, for each."""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.optimizer import clip_grads
from megatron.core.optimizer import optimizer as optimizers
from megatron.core.utils import local_multi_tensor_l2_norm, local_multi_tensor_scale
from torch import Tensor

_torch: Any = torch  # where the functions over lists of tensors are private


def fuse() -> None:
    """For this process."""
    modules: Any = (clip_grads, optimizers)
    clip, optimizer = modules
    # Where Transformer Engine or Apex is installed, theirs are in place already.
    if clip.l2_norm_impl is local_multi_tensor_l2_norm:
        clip.l2_norm_impl = l2_norm
    for module in (clip, optimizer):
        if module.multi_tensor_scale_impl is local_multi_tensor_scale:
            module.multi_tensor_scale_impl = scale


def l2_norm(chunk_size: int, noop_flag: Tensor, tensor_lists: Sequence[Sequence[Tensor]], *_: Any) -> tuple[Any, None]:
    """Apex's ``multi_tensor_l2norm``: of all tensors together, [1], on their device. Megatron's own fetches a number
    from the GPU for each."""
    norms = _torch._foreach_norm(list(tensor_lists[0]))
    return torch.linalg.vector_norm(torch.stack(norms).float()).reshape(1), None


def scale(chunk_size: int, noop_flag: Tensor, tensor_lists: Sequence[Sequence[Tensor]], factor: float) -> None:
    """Apex's ``multi_tensor_scale``: the second list becomes the first times ``factor``."""
    sources, targets = (list(tensors) for tensors in tensor_lists)
    if any(source is not target for source, target in zip(sources, targets, strict=True)):
        _torch._foreach_copy_(targets, sources)
    if factor != 1.0:
        _torch._foreach_mul_(targets, factor)
