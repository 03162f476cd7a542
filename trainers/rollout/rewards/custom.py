"""A user's own reward function."""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

from engines.types import Sample
from trainers.errors import RolloutFailed
from trainers.plugins.call import is_cancelled
from trainers.rollout.rewards.verdict import Verdict, verdict

MAX_THREADS = 32


class CustomReward:
    """Calls ``function(sample)``, plain or async, with a deadline for each sample.

    A plain function runs in a thread. One that never returns keeps its thread; threads are daemons, so that it
    cannot keep the process, and at most ``MAX_THREADS``, so that it cannot flood it.
    """

    def __init__(
        self, function: Callable[..., Any], *, name: str, timeout_s: float, reward_key: str | None = None
    ) -> None:
        self._function = function
        self._name = name
        self._timeout_s = timeout_s
        self._reward_key = reward_key
        self._threads = asyncio.Semaphore(MAX_THREADS)

    async def __call__(self, sample: Sample) -> Verdict | None:
        """The verdict, or None when the deadline passed. Raises :class:`RolloutFailed` when the function raises or
        returns anything but a finite number, or a dict with one under ``reward_key``."""
        where = f"for sample {sample.index}"
        called = await self._call(sample, where)
        return None if called is None else self._verdict(called[0], where)

    async def score_group(self, samples: Sequence[Sample]) -> list[Verdict | None]:
        """The same for a function of a whole group, called once, with a list."""
        where = f"for the group of sample {samples[0].index}"
        called = await self._call(list(samples), where)
        if called is None:
            return [None] * len(samples)
        values = called[0]
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(samples):
            raise RolloutFailed(
                f"reward function {self._name} returned {values!r:.200} {where}: expected a list of {len(samples)} "
                "rewards"
            )
        return [self._verdict(value, where) for value in values]

    async def _call(self, argument: Any, where: str) -> tuple[Any] | None:
        """What the function returned; None when the deadline passed."""
        blocking = not _is_async(self._function)
        if blocking:
            await self._threads.acquire()  # the deadline counts from when the function begins
        deadline = asyncio.timeout(self._timeout_s)
        try:
            async with deadline:
                value: Any = await self._in_thread(argument) if blocking else self._function(argument)
                if inspect.isawaitable(value):
                    value = await value
        except TimeoutError as error:
            if deadline.expired():
                return None
            raise self._failed(error, where) from error
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise self._failed(error, where) from error
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise self._failed(error, where) from error
        return (value,)

    def _verdict(self, value: Any, where: str) -> Verdict:
        try:
            return verdict(value, self._reward_key)
        except ValueError as error:
            shown, expected = error.args
            raise RolloutFailed(f"reward function {self._name} returned {shown} {where}: expected {expected}") from None

    async def _in_thread(self, argument: Any) -> Any:
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
                outcome: tuple[Any, BaseException | None] = (self._function(argument), None)
            except StopIteration as error:  # which a future cannot carry
                outcome = (None, RuntimeError(repr(error)))
            except BaseException as error:
                outcome = (None, error)
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(deliver, *outcome)

        threading.Thread(target=work, name="reward", daemon=True).start()
        return await result

    def _failed(self, error: BaseException, where: str) -> RolloutFailed:
        return RolloutFailed(f"reward function {self._name} raised {error!r} {where}")


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
