"""Lets Megatron-Core compute where there is no GPU.

Megatron names CUDA unconditionally: ``device="cuda"``, ``torch.cuda.current_device()``, CUDA streams and random states.
:func:`megatron_device` gives each of these its meaning on the CPU. It reaches into names that no release promises to
keep, so it is tested by itself against the pinned release.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

type DeviceType = Literal["cpu", "cuda"]

_CPU = torch.device("cpu")
_CPU_TYPES = ("torch.FloatTensor", "torch.HalfTensor", "torch.BFloat16Tensor")


def megatron_device(device: DeviceType) -> AbstractContextManager[None]:
    """Enter around every call into Megatron; on ``"cuda"`` it does nothing. Not for several threads at once."""
    return nullcontext() if device == "cuda" else _on_cpu()


@contextmanager
def _on_cpu() -> Iterator[None]:
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # Megatron asserts it under tensor parallelism
    from megatron.core.tensor_parallel import random as megatron_random
    from megatron.core.transformer.moe import token_dispatcher

    with ExitStack() as stack:
        for name, stand_in in _TORCH_CUDA.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        stack.enter_context(mock.patch.object(torch.cuda.random, "get_rng_state", _get_rng_state))
        stack.enter_context(mock.patch.object(megatron_random, "_get_cuda_rng_state", _get_rng_state))
        stack.enter_context(mock.patch.object(megatron_random, "_set_cuda_rng_state", _set_rng_state))
        stack.enter_context(mock.patch.object(token_dispatcher, "maybe_move_tensor_to_cpu", _on_cpu_already))
        stack.enter_context(mock.patch.object(torch.nn.Module, "cuda", lambda module, device=None: module))
        # Megatron compiles some small functions: here that takes a C++ compiler and longer than it ever saves.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_CudaMeansCpu())
        yield


class _CudaMeansCpu(TorchFunctionMode):
    """Turns a CUDA device in any torch call into the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if kwargs:
            if _names_cuda(kwargs.get("device")):
                kwargs = {**kwargs, "device": _CPU}
            if kwargs.get("pin_memory"):
                kwargs = {**kwargs, "pin_memory": False}
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and _names_cuda(args[1]):
            args = (args[0], _CPU, *args[2:])
        result = func(*args, **(kwargs or {}))
        # The optimizer sorts parameters by comparing `param.type()` with the names of CUDA's tensor types.
        if func is torch.Tensor.type and len(args) == 1 and result in _CPU_TYPES:
            return result.replace("torch.", "torch.cuda.")
        return result


def _names_cuda(device: Any) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def _on_cpu_already(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor


def _get_rng_state(*_: Any, **__: Any) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(state: torch.Tensor, *_: Any, **__: Any) -> None:
    torch.set_rng_state(state)


class _Stream:
    """Work on the CPU is done when the call returns: there is nothing to wait for."""

    cuda_stream = 0
    device = _CPU

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Any = None) -> "_Event":
        return event or _Event()

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class _Event:
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 0.0


class _Properties:
    name = "cpu"
    major, minor = 9, 0
    total_memory = 0
    multi_processor_count = 1


def _nothing(*_: Any, **__: Any) -> None: ...


def _zero(*_: Any, **__: Any) -> int:
    return 0


_STREAM = _Stream()
_TORCH_CUDA: dict[str, Any] = {
    "current_device": lambda: _CPU,
    "set_device": _nothing,
    "device_count": lambda: 1,
    "synchronize": _nothing,
    "empty_cache": _nothing,
    "current_stream": lambda device=None: _STREAM,
    "default_stream": lambda device=None: _STREAM,
    "stream": lambda stream: nullcontext(),
    "Stream": _Stream,
    "Event": _Event,
    "manual_seed": torch.manual_seed,
    "manual_seed_all": _nothing,
    "get_rng_state": _get_rng_state,
    "set_rng_state": _set_rng_state,
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": lambda device=None: _Properties(),
    "memory_allocated": _zero,
    "max_memory_allocated": _zero,
    "memory_reserved": _zero,
    "max_memory_reserved": _zero,
    "reset_peak_memory_stats": _nothing,
}
