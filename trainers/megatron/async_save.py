"""A checkpoint that is written while training goes on.

Megatron plans what each rank writes, and how it ends; in between it wants a process of its own, which it forks from one
with a GPU's context and a dozen threads, or starts anew for GPUs alone. Here a thread of the rank writes a copy.
"""

import contextlib
import errno
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.training import checkpointing
from torch.distributed.checkpoint.api import CheckpointException

from trainers.megatron.checkpoint import Companion, TrainingState, argument, write
from trainers.megatron.manifest import FileEntry, digest
from trainers.megatron.publication import Keeper, Staging
from trainers.megatron.storage import failing_late, raise_together

log = logging.getLogger(__name__)


class AsyncSave:
    """One checkpoint on its way to the disk. Nobody sees it until :meth:`settle` has made it durable."""

    def __init__(
        self,
        state: TrainingState,
        rollout_id: int,
        directory: Path,
        extra_state: dict[str, Any],
        keeper: Keeper,
        companions: Sequence[Companion] = (),
        *,
        timeout_s: float,
    ):
        """Copy everything that is saved to main memory, and begin to write it, for at most ``timeout_s``. A
        collective. Raises StorageFailed on all ranks, naming the directory."""
        self._staging = Staging(directory, rollout_id, keeper)
        self._extra_state = json.dumps(extra_state)
        self._staging.prepare()
        self._requests: list[AsyncRequest] = []
        with _requests_go_to(self._requests, state):
            write(state, companions, self._staging)
        self._written: list[FileEntry] = []
        self._failure: BaseException | None = None
        self._given_up = threading.Event()
        self._began, self._timeout_s = time.monotonic(), timeout_s
        # A daemon, so that a disk that hangs does not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"save-{rollout_id}", daemon=True)
        self._thread.start()

    @property
    def target(self) -> Path:
        """Where the checkpoint will be."""
        return self._staging.target

    def settle(self) -> bool:
        """Put the checkpoint in force if all ranks have written their parts; False while one has not. A collective,
        which waits for no disk but to write what is small. Raises StorageFailed on all ranks when one could not
        write, or not in time; what was in force stays so."""
        done = not self._thread.is_alive()
        raise_together(self._staging.directory, self._failure if done else self._overdue())
        if not _all_ranks(done):
            return False
        self._finish()
        seconds = time.monotonic() - self._began
        log.info("%s is durable %.1f s after its state was copied", self.target, seconds)
        return True

    def give_up(self) -> None:
        """Write no further file."""
        self._given_up.set()

    def _run(self) -> None:
        try:
            for request in self._requests:
                for path in _written(request):
                    if self._given_up.is_set():
                        return
                    self._written += digest(self._staging.written, [str(path.relative_to(self._staging.written))])
        except BaseException as error:  # raised on all ranks when they settle
            self._failure = error

    def _overdue(self) -> OSError | None:
        if time.monotonic() - self._began < self._timeout_s:
            return None
        return OSError(errno.ETIMEDOUT, f"a rank did not write its part within {self._timeout_s:.0f} s")

    def _finish(self) -> None:
        failure: BaseException | None = None
        try:
            with failing_late():
                for request in self._requests:
                    for finalize in request.finalize_fns:
                        finalize()
        except (Exception, CheckpointException) as error:  # torch's is no Exception
            failure = error
        raise_together(self._staging.directory, failure)
        self._staging.publish(self._extra_state, self._written)


@contextlib.contextmanager
def _requests_go_to(requests: list[AsyncRequest], state: TrainingState) -> Iterator[None]:
    """Megatron plans what it saves, and hands it over to be written later."""

    def keep(request: AsyncRequest) -> None:
        _detach(request)
        requests.append(request)

    with (
        argument(state.args, "async_save", True),
        argument(state.args, "async_strategy", "mcore"),
        mock.patch.object(checkpointing, "schedule_async_save", keep),
    ):
        yield


def _detach(request: AsyncRequest) -> None:
    """Copy its tensors to main memory, in place of those that the optimizer is about to change."""
    if request.async_fn is None:
        return  # this rank writes nothing
    buckets = request.async_fn_args[1]
    for number, (path, key, (texts, tensors)) in enumerate(buckets):
        copies = [(item, tensor.to("cpu", copy=True)) for item, tensor in tensors]
        buckets[number] = (path, key, (texts, copies))


def _written(request: AsyncRequest) -> Iterator[Path]:
    """Write its files one by one, letting go of the copies; then hand Megatron the results, where it looks for them."""
    if request.async_fn is None:
        return
    transforms, _ = request.async_fn.args  # type: ignore[attr-defined]
    _, buckets, results = request.async_fn_args
    found: dict[int, Any] = {}
    for number, (path, key, _) in enumerate(buckets):
        outcome = FileSystemWriterAsync.write_preloaded_data(
            transforms,
            local_proc_idx=number,
            write_bucket=buckets[number],
            results_queue=None,
            count_queue=None,
            use_fsync=True,
        )
        assert outcome is not None
        if isinstance(outcome[1], BaseException):
            raise outcome[1]
        found[number] = outcome[1]
        buckets[number] = (path, key, ([], []))
        yield Path(path)
    results.put(found)


def _all_ranks(done: bool) -> bool:
    told: list[bool | None] = [None] * dist.get_world_size()
    dist.all_gather_object(told, done)
    return all(told)
