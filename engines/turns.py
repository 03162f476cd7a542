"""Whose turn it is to send: a bounded number at once, first come first served, and a queue that can be left."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

on_wait: ContextVar[Callable[[bool], None] | None] = ContextVar("on_wait", default=None)
"""Told True when a call in this context begins to wait for its turn, and False when it has waited: for a deadline that
is meant for the work alone."""


class Turns:
    """Like a semaphore of ``size``; those that wait can be sent away by the beginning of their name. Use it within
    one event loop."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._queue: deque[tuple[str, asyncio.Future[bool]]] = deque()

    async def take(self, name: str) -> bool:
        """Whether a turn was given: to be returned with :meth:`give_back`. False after :meth:`send_away`."""
        if self._free and not self._queue:
            self._free -= 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append((name, turn))
        tell = on_wait.get() or _nobody
        tell(True)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.give_back()
            raise
        finally:
            tell(False)

    def give_back(self) -> None:
        while self._queue:
            _, turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1

    def send_away(self, prefix: str) -> None:
        """All that wait under a name that begins with ``prefix``."""
        for name, turn in self._queue:
            if name.startswith(prefix) and not turn.done():
                turn.set_result(False)


def _nobody(waits: bool) -> None:
    pass
