"""A user's own reward function."""

import asyncio
import contextlib
import inspect
import math
import threading
from collections.abc import Callable
from numbers import Real
from typing import Any

from engines.types import Sample
from trainers.errors import RolloutFailed

MAX_THREADS = 32


class CustomReward:
    """Calls ``function(sample)``, plain or async, with a deadline for each sample.

    A plain function runs in a thread. One that never returns keeps its thread; threads are daemons, so that it
    cannot keep the process, and at most ``MAX_THREADS``, so that it cannot flood it.
    """

    def __init__(self, function: Callable[..., Any], *, name: str, timeout_s: float) -> None:
        self._function = function
        self._name = name
        self._timeout_s = timeout_s
        self._threads = asyncio.Semaphore(MAX_THREADS)

    async def __call__(self, sample: Sample) -> float | None:
        """The reward, or None when the deadline passed. Raises :class:`RolloutFailed` when the function raises or
        returns anything but a finite number."""
        blocking = not _is_async(self._function)
        if blocking:
            await self._threads.acquire()  # the deadline counts from when the function begins
        deadline = asyncio.timeout(self._timeout_s)
        try:
            async with deadline:
                value: Any = await self._in_thread(sample) if blocking else self._function(sample)
                if inspect.isawaitable(value):
                    value = await value
        except TimeoutError as error:
            if deadline.expired():
                return None
            raise self._failed(sample, error) from error
        except Exception as error:  # the user's code may raise anything
            raise self._failed(sample, error) from error
        if not isinstance(value, Real) or not math.isfinite(value):
            raise RolloutFailed(
                f"reward function {self._name} returned {value!r} for sample {sample.index}: expected a finite number"
            )
        return float(value)

    async def _in_thread(self, sample: Sample) -> Any:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()

        def deliver(value: Any, error: BaseException | None) -> None:
            self._threads.release()
            if result.cancelled():
                return
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)

        def work() -> None:
            try:
                outcome: tuple[Any, BaseException | None] = (self._function(sample), None)
            except StopIteration as error:  # which a future cannot carry
                outcome = (None, RuntimeError(repr(error)))
            except BaseException as error:
                outcome = (None, error)
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(deliver, *outcome)

        threading.Thread(target=work, name=f"reward-{sample.index}", daemon=True).start()
        return await result

    def _failed(self, sample: Sample, error: Exception) -> RolloutFailed:
        return RolloutFailed(f"reward function {self._name} raised {error!r} for sample {sample.index}")


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
