"""Calling the user's functions: plain or async, bounded in time, and their errors told apart from ours."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from trainers.errors import RolloutFailed, RunError
from trainers.plugins.signature import is_async


async def call(function: Callable[..., Any], *given: Any, name: str, timeout_s: float, field: str, **named: Any) -> Any:
    """``await function(*given)``; a plain function runs in a thread. Raises :class:`RolloutFailed`, which names the
    function, when it raises or when ``timeout_s`` (``field``) passes first."""
    deadline = asyncio.timeout(timeout_s)
    try:
        async with deadline:
            if is_async(function):
                return await function(*given, **named)
            found = await in_thread(function, *given, **named)
            return await found if inspect.isawaitable(found) else found
    except RunError:
        raise
    except TimeoutError as error:
        if deadline.expired():
            raise RolloutFailed(f"{name} did not return within {field} = {timeout_s:g} s") from None
        raise RolloutFailed(f"{name} raised {error!r}") from error
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise RolloutFailed(f"{name} raised {error!r}") from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        if type(error).__module__.startswith("engines."):
            raise  # an engine's failure is no fault of the function that used it
        raise RolloutFailed(f"{name} raised {error!r}") from error


async def in_thread(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    def work() -> Any:
        try:
            return function(*given, **named)
        except StopIteration as error:  # which a future cannot carry: whoever waits would wait forever
            raise RuntimeError(repr(error)) from error

    return await asyncio.to_thread(work)


def is_cancelled() -> bool:
    """Whether a CancelledError that was just caught is meant for this task. The user's code raises one too when it
    waits for a task that it has cancelled; taken for ours it would end the run as if somebody had asked for that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def guarded[**P, R](function: Callable[P, R], name: str) -> Callable[P, R]:
    """A plain function that is called at once. Raises :class:`RolloutFailed`, which names it, when it raises."""

    def called(*given: P.args, **named: P.kwargs) -> R:
        try:
            return function(*given, **named)
        except RunError:
            raise
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise RolloutFailed(f"{name} raised {error!r}") from error

    return called
