"""Out of memory, in the many forms in which it comes, as the error that ends a run."""

import contextlib
from collections.abc import Iterator

import torch

from trainers.errors import OutOfMemory

_HOST_WORDS = ("can't allocate memory", "Cannot allocate memory", "DefaultCPUAllocator")


@contextlib.contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Raise OutOfMemory for what torch, CUDA or the host say when there is no memory for ``what``."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{what}: {error}; lower trainer.max_tokens_per_gpu, or use more GPUs") from error
    except MemoryError as error:
        raise OutOfMemory(f"{what}: the host is out of memory: {error}") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in _HOST_WORDS):
            raise
        raise OutOfMemory(f"{what}: the host is out of memory: {error}") from error
