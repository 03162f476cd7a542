"""New weights to all engines at once: one broadcast per bucket, over a process group of their own."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.distributed import Work

from engines.checkpoint import tensor_index
from engines.errors import EngineError, WeightSyncError
from engines.protocols import PauseMode, WeightReceiver
from trainers.weights.buckets import Bucket, buckets
from trainers.weights.group import SyncGroup

DRAIN_GRACE_S = 10.0
_CALL_TIMEOUT_S = 15.0
"""For each of the three calls that make an engine generate again."""


@dataclass(frozen=True, slots=True)
class SyncStats:
    """One finished weight sync."""

    version: int
    num_bytes: int
    seconds: float
    buckets: int


class CollectiveSender:
    """Rank 0's side of weight sync. Lives as long as the trainer: the process group stays open between updates, and
    is made anew when an engine was replaced or an update failed.

    ``host``: this machine's address, as the engines reach it.
    """

    def __init__(self, *, backend: Literal["gloo", "nccl"], device: torch.device | str, host: str):
        self._backend: Literal["gloo", "nccl"] = backend
        self._device = torch.device(device)
        self._host = host
        self._group: SyncGroup | None = None

    async def send(
        self,
        receivers: Sequence[WeightReceiver],
        named_tensors: Iterable[tuple[str, torch.Tensor]],
        version: int,
        *,
        pause_mode: PauseMode,
        bucket_bytes: int,
        timeout_s: float,
    ) -> SyncStats:
        """Bring every receiver to ``version``: pause, broadcast, commit, resume.

        ``named_tensors``: (Hugging Face name, whole tensor); read lazily in the calling thread and always to its
        end, since other ranks may take part in producing it. Raises WeightSyncError, which names the engines at
        fault; whatever fails, all engines that can be are continued. Those that hold a mixture report no version
        until the next update.
        """
        started = time.perf_counter()
        tensors = iter(named_tensors)
        sent = _Sent()
        try:
            async with asyncio.timeout(timeout_s):
                await _all(receivers, "pausing", lambda receiver: receiver.pause(pause_mode))
                group = await self._joined(receivers, timeout_s)
                for bucket in buckets(tensors, bucket_bytes=bucket_bytes, device=self._device):
                    _check_bucket(receivers, bucket)
                    sent.begun = True
                    await _send_bucket(group, receivers, bucket)
                    sent.add(bucket)
                _check_complete(receivers, sent.names)
                flushed = await _all(receivers, "committing", lambda receiver: receiver.commit(version))
                await _all(receivers, "resuming", lambda receiver: receiver.resume())
                if pause_mode != "in_place":
                    stale = [receiver for receiver, clean in zip(receivers, flushed, strict=True) if not clean]
                    await _all(stale, "draining", lambda receiver: receiver.drain(DRAIN_GRACE_S))
        except BaseException as error:
            left = await asyncio.shield(self._give_up(receivers, mixed=sent.begun))
            if left:
                error.add_note(f"could not be continued and must be replaced: {', '.join(left)}")
            if not isinstance(error, TimeoutError | EngineError):
                raise  # the trainer's own, or a cancellation
            for _ in tensors:  # the other ranks are producing these too, and would wait for this one
                pass
            if isinstance(error, TimeoutError):
                during = "".join(f" while {note}" for note in getattr(error.__cause__, "__notes__", ()))
                error = WeightSyncError(f"sync.timeout_s = {timeout_s:g} s passed after {sent.buckets} buckets{during}")
            raise WeightSyncError(
                f"weight version {version} did not reach {_names(receivers)}: {error}{_left_text(left)}"
            ) from error
        return SyncStats(version, sent.num_bytes, time.perf_counter() - started, sent.buckets)

    async def close(self) -> None:
        """Leave the process group; the engines notice by themselves. Safe to call again."""
        group, self._group = self._group, None
        if group is not None:
            await asyncio.to_thread(group.destroy)

    async def _joined(self, receivers: Sequence[WeightReceiver], timeout_s: float) -> SyncGroup:
        if self._group is not None and self._group.receivers == tuple(receivers):
            return self._group
        if self._group is not None:
            old = self._group
            await self.close()
            await asyncio.gather(*(_done(receiver.leave(old.name)) for receiver in old.receivers))
        group = SyncGroup(
            tuple(receivers), backend=self._backend, device=self._device, host=self._host, timeout_s=timeout_s
        )
        opening = asyncio.ensure_future(_open(group))
        try:
            await _all(receivers, "joining", lambda receiver: receiver.join(group.plan(receiver)), opening)
        except BaseException:
            # The store goes with the group, and with it whoever still waits in it on the engines' side.
            group.abort()
            raise
        self._group = group
        return group

    async def _give_up(self, receivers: Sequence[WeightReceiver], *, mixed: bool) -> list[str]:
        """Make every engine generate again, none waiting for another; returns those that could not be."""
        group, self._group = self._group, None

        async def go_on(receiver: WeightReceiver) -> bool:
            if group is not None:
                await _done(receiver.leave(group.name))
            marked = not mixed or await _done(receiver.invalidate())
            return await _done(receiver.resume()) and marked

        going_on = asyncio.gather(*map(go_on, receivers))
        if group is not None:
            # Meanwhile: gloo's abort waits for a broadcast under way, which an engine that leaves breaks off, and one
            # that hangs does not; an engine that waits in NCCL leaves only once the sender has aborted.
            aborting = asyncio.ensure_future(asyncio.to_thread(group.abort))
            await asyncio.wait({aborting}, timeout=_CALL_TIMEOUT_S)
        return sorted(receiver.name for receiver, goes in zip(receivers, await going_on, strict=True) if not goes)


@dataclass(slots=True)
class _Sent:
    begun: bool = False
    """Some engine may hold some of the new weights."""
    num_bytes: int = 0
    buckets: int = 0
    names: set[str] = field(default_factory=set[str])

    def add(self, bucket: Bucket) -> None:
        self.names.update(meta.name for meta in bucket.metas)
        self.num_bytes += bucket.flat.nbytes
        self.buckets += 1


def _check_bucket(receivers: Sequence[WeightReceiver], bucket: Bucket) -> None:
    for path in {receiver.model_path for receiver in receivers}:
        index = tensor_index(path)
        for meta in bucket.metas:
            if index is not None and (complaint := index.complaint(meta)):
                raise WeightSyncError(f"{complaint} (model.hf_checkpoint {path})")


def _check_complete(receivers: Sequence[WeightReceiver], sent: set[str]) -> None:
    if not sent:
        raise WeightSyncError("there were no tensors to send")
    for path in {receiver.model_path for receiver in receivers}:
        index = tensor_index(path)
        if index is not None and (missing := index.missing(sent)):
            raise WeightSyncError(
                f"{len(missing)} tensors of {path} were not sent and would keep their old values: {missing[:5]}"
            )


async def _send_bucket(group: SyncGroup, receivers: Sequence[WeightReceiver], bucket: Bucket) -> None:
    """Broadcast while the engines load. An engine that refuses never enters the collective: its answer ends the
    wait, and the caller aborts the group."""
    broadcast = asyncio.ensure_future(_broadcast(group, bucket.flat))
    await _all(receivers, "loading", lambda receiver: receiver.load(group.name, bucket.metas), broadcast)


async def _open(group: SyncGroup) -> None:
    try:
        await asyncio.to_thread(group.open)
    except RuntimeError as error:
        raise WeightSyncError(f"process group {group.name} did not form: {error}") from error


async def _broadcast(group: SyncGroup, flat: torch.Tensor) -> None:
    try:
        # In a thread: the first NCCL collective of a group builds its communicator, which waits for all ranks.
        work: Work = await asyncio.to_thread(group.broadcast, flat)
        pause = 0.0002
        while not work.is_completed():
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.005)
        work.wait()  # raises what went wrong
    except RuntimeError as error:
        raise WeightSyncError(f"the broadcast of {flat.nbytes} bytes failed: {error}") from error


async def _all[T](
    receivers: Sequence[WeightReceiver],
    what: str,
    call: Callable[[WeightReceiver], Awaitable[T]],
    *others: asyncio.Future[None],
) -> list[T]:
    """``call`` for every receiver at once, and ``others`` beside; the first failure cancels the rest and is raised."""

    async def one(receiver: WeightReceiver) -> T:
        try:
            return await call(receiver)
        except EngineError as error:
            raise WeightSyncError(f"{what} {receiver.name}: {error}") from error

    tasks = [asyncio.ensure_future(one(receiver)) for receiver in receivers]
    try:
        waiting: set[asyncio.Future] = {*tasks, *others}
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
            # An engine's own words say more than the broken collective that follows from its failure.
            for future in [*tasks, *others]:
                if future in done:
                    future.result()
    except asyncio.CancelledError as cancelled:  # a deadline's, say, which can tell then what it met
        late = [receiver for receiver, task in zip(receivers, tasks, strict=True) if not task.done()]
        cancelled.add_note(f"{what} {_names(late)}" if late else what)
        raise
    finally:
        for future in [*tasks, *others]:
            future.cancel()
    return [task.result() for task in tasks]


async def _done(call: Awaitable[None]) -> bool:
    """Whether it came about, in bounded time."""
    try:
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            await call
    except (EngineError, TimeoutError):
        return False
    return True


def _names(receivers: Sequence[WeightReceiver]) -> str:
    return ", ".join(receiver.name for receiver in receivers) or "(no engine)"


def _left_text(left: list[str]) -> str:
    return f"; could not be continued and must be replaced: {', '.join(left)}" if left else ""
