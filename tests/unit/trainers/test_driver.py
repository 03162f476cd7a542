"""How an attempt ends, and what it says of it."""

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from engines.errors import EngineOutOfMemory
from trainers import driver
from trainers.driver import Driver
from trainers.errors import DataInvalid
from trainers.reporting import Reporter
from trainers.reports import EndReason, FinishedReport, ReportReply, Wanted
from trainers.spool import Spool


class Silent:
    """A reporter that is told nothing."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()


class Scripted(Driver):
    """Does as it is told in place of a run."""

    def __init__(self, work: Any, **launch: Any) -> None:
        super().__init__(
            {"job_id": "j", "attempt": 1, "spec": {}, "run_dir": "/", "report_url": "http://a.test", "report_token": ""}
            | launch
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


async def engine_without_memory() -> None:
    raise ExceptionGroup("", [EngineOutOfMemory("engine-0: CUDA out of memory")])


async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("work", "reason", "words"),
    [
        (nothing, EndReason.FINISHED, ""),
        (bad_data, EndReason.DATA_INVALID, "line 3"),
        (engine_without_memory, EndReason.OUT_OF_MEMORY, "engine-0: CUDA out of memory"),
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


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What an API would have been sent."""
    sent: list[Any] = []

    async def post(_: Reporter, batch: list[Any]) -> ReportReply:
        sent.extend(batch)
        return ReportReply(acked=len(sent), wanted=Wanted.RUN)

    monkeypatch.setattr(Reporter, "_post", post)
    monkeypatch.setattr(driver, "DRAIN_S", 5.0)
    return sent


STEP = '{"kind":"step","seq":1,"at":"2026-01-01T00:00:00Z","rollout_id":0,"weight_version":1,"metrics":{}}'


@pytest.mark.parametrize(
    ("before", "full", "words"),
    [
        (None, False, os.strerror(errno.ENOTDIR)),
        (STEP, True, os.strerror(errno.ENOSPC)),
        (f"{STEP[:30]}{STEP}", False, "line 1 of"),
    ],
    ids=["cannot be made", "full disk", "damaged"],
)
async def test_a_run_directory_that_cannot_be_used_is_the_reason_that_is_reported(
    delivered: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, full: bool, words: str
) -> None:
    run_dir = tmp_path / "runs" / "j"
    if before is None:
        run_dir.parent.touch()
    else:  # a fact of the attempt before to take over
        monkeypatch.setattr(driver, "_log_to", lambda _: None)
        (run_dir / "reports").mkdir(parents=True)
        (run_dir / "reports" / "attempt-1.jsonl").write_text(f"{before}\n")
    if full:
        monkeypatch.setattr(Spool, "append", _no_space)
    await Scripted(nothing, run_dir=str(run_dir), attempt=2).run()
    (last,) = delivered
    assert isinstance(last, FinishedReport)
    assert (last.seq, last.reason) == (1, EndReason.STORAGE_FAILED)
    assert str(run_dir) in last.detail
    assert words in last.detail


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
