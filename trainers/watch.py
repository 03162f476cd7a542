"""A part of a run that is lost ends what needs it at once, rather than when it is next asked for something."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from engines.errors import EngineRefused


@asynccontextmanager
async def watched(watch: Coroutine[Any, Any, NoReturn], *, dying_s: float = 0.0) -> AsyncGenerator[None]:
    """While the body runs, the loss that ``watch`` raises cancels it and is raised in its place.

    ``dying_s``: an engine that dies answers nonsense for some seconds before its process is gone. What the body was
    refused waits this long for the loss, which is the reason then, and worth another attempt.
    """
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch)
        try:
            yield
        except EngineRefused:
            await asyncio.wait({watching}, timeout=dying_s)
            raise
        watching.cancel()
