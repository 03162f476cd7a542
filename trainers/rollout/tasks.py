"""Tasks that run the user's code, ended within a time."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""For cancelled tasks to end: a function of the user's may take the cancellation for an error of its own and go on."""


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel those that still run, and leave behind what does not end in time. What they raise is dropped."""
    running: list[asyncio.Task[Any]] = []
    for task in tasks:
        task.add_done_callback(_hear)
        if task.cancel():
            running.append(task)
    if running:
        _, left = await asyncio.wait(running, timeout=PATIENCE_S)
        if left:
            log.warning("%d tasks did not end within %g s of being cancelled: left behind", len(left), PATIENCE_S)


def _hear(task: asyncio.Task[Any]) -> None:
    """An exception that nobody asks for would be logged as lost."""
    if not task.cancelled():
        task.exception()
