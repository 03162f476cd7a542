"""A deadline for work at the engines, and not for the wait until they have room."""

import asyncio
import contextlib
from types import TracebackType

from engines.turns import on_wait


class WorkingTime:
    """Like ``asyncio.timeout``, for ``async with`` once; stands still while a request within waits for its turn."""

    def __init__(self, seconds: float | None) -> None:
        self._deadline = asyncio.timeout(seconds)
        self._waiting = 0
        self._left: float | None = None

    @property
    def over(self) -> bool:
        return self._deadline.expired()

    async def __aenter__(self) -> None:
        await self._deadline.__aenter__()
        self._token = on_wait.set(self._waits)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        on_wait.reset(self._token)
        await self._deadline.__aexit__(kind, value, trace)

    def _waits(self, does: bool) -> None:
        self._waiting += 1 if does else -1
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(RuntimeError):  # a task that was left behind may wait after the end
            if does and self._waiting == 1 and (when := self._deadline.when()) is not None:
                self._left = when - now
                self._deadline.reschedule(None)
            elif not self._waiting and self._left is not None:
                self._deadline.reschedule(now + self._left)
                self._left = None
