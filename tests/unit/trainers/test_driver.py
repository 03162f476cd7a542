"""How an attempt ends, and what it says of it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from trainers.driver import Driver
from trainers.errors import DataInvalid
from trainers.reports import EndReason


class Silent:
    """A reporter that is told nothing."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()


class Scripted(Driver):
    """Does as it is told in place of a run."""

    def __init__(self, work: Any) -> None:
        super().__init__(
            {"job_id": "j", "attempt": 1, "spec": {}, "run_dir": "/", "report_url": "http://a.test", "report_token": ""}
        )
        self._does = work

    async def _work(self, run_dir: Path, report: Any) -> None:
        await self._does()


async def lost_task() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def bad_data() -> None:
    raise DataInvalid("line 3")


async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("work", "reason", "words"),
    [
        (nothing, EndReason.FINISHED, ""),
        (bad_data, EndReason.DATA_INVALID, "line 3"),
        (lost_task, EndReason.INTERNAL_ERROR, "something within the run was cancelled"),
    ],
)
async def test_a_run_that_ends_by_itself_is_finished_only_when_nothing_broke(
    work: Any, reason: EndReason, words: str
) -> None:
    found, detail = await Scripted(work)._end(Path("/"), Silent())  # pyright: ignore[reportArgumentType]
    assert found is reason
    assert words in detail


async def test_a_run_that_is_told_to_stop_was_cancelled_and_has_cleaned_up() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            report.stop.set()
            await asyncio.Event().wait()
        finally:
            cleaned.append("released")

    report = Silent()
    assert await Scripted(work)._end(Path("/"), report) == (EndReason.CANCELLED_BY_USER, "")  # pyright: ignore[reportArgumentType]
    assert cleaned == ["released"]
