"""On a GPU, what Megatron leaves to Transformer Engine and Apex: rotary embeddings in one kernel, and the optimizer's
passes over all parameters without a launch, or a wait, for each."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.optimizer import clip_grads
from megatron.core.optimizer import optimizer as optimizers
from megatron.core.utils import local_multi_tensor_l2_norm, local_multi_tensor_scale
from torch import Tensor

_torch: Any = torch  # where the functions over lists of tensors are private
_unfused_rotary = rope_utils._apply_rotary_pos_emb_bshd


def fuse() -> None:
    """For this process. Compilation takes some seconds of the first step."""
    modules: Any = (rope_utils, clip_grads, optimizers)
    rope, clip, optimizer = modules
    rope._apply_rotary_pos_emb_bshd = rotary
    # Where Transformer Engine or Apex is installed, theirs are in place already.
    if clip.l2_norm_impl is local_multi_tensor_l2_norm:
        clip.l2_norm_impl = l2_norm
    for module in (clip, optimizer):
        if module.multi_tensor_scale_impl is local_multi_tensor_scale:
            module.multi_tensor_scale_impl = scale


def rotary(t: Tensor, freqs: Tensor, *args: Any, **options: Any) -> Tensor:
    """``t`` [T, …, D] turned by the angles ``freqs`` [T, …, D], as Megatron's function of this place does."""
    if args or any(options.get(name) not in (None, False, 1.0) for name in options):
        return _unfused_rotary(t, freqs, *args, **options)
    cos, sin = _cos_sin(freqs, t.dtype)
    return _compiled_rotate()(t, cos, sin)


def _cos_sin(freqs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of the angles, which all layers of a micro-batch share."""
    held: Any = freqs
    if getattr(held, "_cos_sin", None) is None or held._cos_sin[0].dtype is not dtype:
        held._cos_sin = (freqs.cos().to(dtype), freqs.sin().to(dtype))
    return held._cos_sin


def rotate(t: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first half of the rotated dimensions with the second, as NeoX and Hugging Face pair them."""
    width = cos.shape[-1]
    turned, rest = t[..., :width], t[..., width:]
    half = torch.cat((-turned[..., width // 2 :], turned[..., : width // 2]), dim=-1)
    return torch.cat((turned * cos + half * sin, rest), dim=-1)


@functools.cache
def _compiled_rotate() -> Any:
    return torch.compile(rotate, dynamic=True)


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
