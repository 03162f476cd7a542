"""Writing to a directory that all ranks share: durably, and so that they all hear of one rank's failure."""

import contextlib
import errno
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.strategies import filesystem_async

from trainers.errors import CheckpointInvalid, StorageFailed
from trainers.megatron.world import agree, is_rank_zero

_STORAGE_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES),
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
)


def write_durably(path: Path, text: str) -> None:
    """The whole text, or, should writing fail, what was there before."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sync(directory: Path) -> None:
    """What was renamed in it stays renamed."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def on_rank_zero(directory: Path, do: Callable[[], None]) -> None:
    """A collective. Raises StorageFailed on all ranks, naming the directory, or the CheckpointInvalid that ``do``
    did."""
    failure: OSError | CheckpointInvalid | None = None
    if is_rank_zero():
        try:
            do()
        except (OSError, CheckpointInvalid) as error:
            failure = error
    if (said := agree(failure)) is None:
        return
    if agree(failure if isinstance(failure, CheckpointInvalid) else None) is not None:
        raise CheckpointInvalid(said) from failure
    raise StorageFailed(f"the checkpoint directory {directory} cannot be written: {said}") from failure


def raise_together(directory: Path, failure: BaseException | None) -> None:
    """Every rank raises when one failed: another would go on to the next collective and wait there."""
    told: list[tuple[bool, str] | None] = [None] * dist.get_world_size()
    said = str(failure).strip().rpartition("\n")[2]
    dist.all_gather_object(told, None if failure is None else (_is_storage(failure), said))
    failures = [each for each in told if each is not None]
    if not failures:
        return
    for is_storage, text in failures:
        if is_storage:
            raise StorageFailed(f"the checkpoint directory {directory} cannot be written: {text}") from failure
    raise failure or RuntimeError(f"another rank could not save to {directory}: {failures[0][1]}")


@contextlib.contextmanager
def failing_late() -> Iterator[None]:
    """What rank 0 alone writes between Megatron's collectives raises at the end: the other ranks would wait in the
    next one for a rank that gave up."""
    failures: list[OSError] = []

    def deferred(write: Callable[..., Any]) -> Callable[..., None]:
        def attempt(*args: Any, **kwargs: Any) -> None:
            try:
                write(*args, **kwargs)
            except OSError as error:
                failures.append(error)

        return attempt

    writer = filesystem_async.FileSystemWriterAsync
    with (
        mock.patch.object(writer, "finish", deferred(writer.finish)),
        mock.patch.object(serialization, "save_config", deferred(serialization.save_config)),
    ):
        yield
    if failures:
        raise failures[0]


def _is_storage(error: BaseException) -> bool:
    """Megatron and torch wrap what the file system said, sometimes as text alone."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _STORAGE_ERRORS:
            return True
        seen = seen.__cause__ or seen.__context__
    text = "".join(traceback.format_exception(error))
    # "unexpected pos" is what torch's zip writer says when a write came short.
    return any(os.strerror(code) in text for code in _STORAGE_ERRORS) or "unexpected pos" in text
