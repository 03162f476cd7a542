"""Wakes those in this process who wait for a job to change. Others notice at their next look."""

import asyncio


class Changes:
    def __init__(self) -> None:
        self.due = asyncio.Event()
        """Set when the reconciler has something to act upon; it clears it."""
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def notify(self, job_id: str, *, due: bool) -> None:
        if due:
            self.due.set()
        for event in self._waiting.get(job_id, ()):
            event.set()

    async def wait(self, job_id: str, timeout_s: float) -> None:
        """Return when ``job_id`` changed, or after ``timeout_s`` seconds."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(job_id, set())
        waiting.add(event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(job_id, None)
