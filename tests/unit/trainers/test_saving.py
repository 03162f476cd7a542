"""A checkpoint is reported when it is durable and when it has gone, and its failure is heard."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainers import saving
from trainers.errors import StorageFailed
from trainers.reports import Phase
from trainers.saving import Saving, missing

DIRECTORY = Path("/checkpoints")


@dataclass
class Trainer:
    """Writes until it is told that it has, or that it cannot."""

    saved: list[int] = field(default_factory=list)
    state: dict[str, Any] | None = None
    written: bool = False
    failure: Exception | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def save(self, rollout_id: int, directory: Path, extra_state: dict[str, Any]) -> Path:
        self.saved.append(rollout_id)
        self.state = extra_state
        return directory / f"iter_{rollout_id:07d}"

    async def save_settled(self) -> bool:
        self.asked.set()
        if self.failure is not None:
            raise self.failure
        return self.written


@dataclass
class Report:
    lines: list[tuple[Any, ...]] = field(default_factory=list)
    megatron_checkpoints: set[Path] = field(default_factory=set)

    def phase(self, phase: Phase, waiting_for: str) -> None:
        self.lines.append((phase, waiting_for))

    def checkpoint(self, *what: Any) -> None:
        self.lines.append(("checkpoint", *what))
        self.megatron_checkpoints.add(what[2])

    def checkpoint_deleted(self, format: str, path: Path) -> None:
        self.lines.append(("deleted", format, path.name))
        self.megatron_checkpoints.discard(path)

    @property
    def checkpoints(self) -> list[int]:
        return [line[1] for line in self.lines if line[0] == "checkpoint"]


@pytest.fixture(autouse=True)
def polls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "POLL_S", 0.0)


def saving_of(
    trainer: Trainer,
    report: Report,
    *,
    async_save: bool = True,
    keep_last: int | None = None,
    directory: Path = DIRECTORY,
) -> Saving:
    checkpoint = SimpleNamespace(async_save=async_save, keep_last=keep_last)
    run: Any = SimpleNamespace(report=report, data=None, config=SimpleNamespace(checkpoint=checkpoint))
    training: Any = SimpleNamespace(trainer=trainer, checkpoints=directory)
    return Saving(run, training)


async def test_one_that_is_written_at_once_is_reported_at_once() -> None:
    trainer, report = Trainer(), Report()
    async with saving_of(trainer, report, async_save=False) as saves:
        await saves.save(3, {"reward": 0.5})
        assert trainer.state == {"data": None, "metrics": {"reward": 0.5}}
        assert report.lines == [
            (Phase.SAVING, "the checkpoint of rollout 3 in /checkpoints"),
            ("checkpoint", 3, "megatron", DIRECTORY / "iter_0000003", 4),
        ]
        await saves.durable()


async def test_one_that_is_being_written_is_reported_once_it_is_durable_and_the_next_waits_for_it() -> None:
    trainer, report = Trainer(), Report()
    async with asyncio.timeout(10), saving_of(trainer, report) as saves:
        await saves.save(3, {})
        await trainer.asked.wait()
        await saves.check()  # nothing has failed
        following = asyncio.create_task(saves.save(5, {}))
        trainer.asked.clear()
        await trainer.asked.wait()
        assert (trainer.saved, report.checkpoints) == ([3], [])
        assert report.lines[-1] == (Phase.SAVING, "the checkpoint of rollout 3 to be written to /checkpoints")
        trainer.written = True
        await following
        assert trainer.saved == [3, 5]
        await saves.durable()
        assert report.checkpoints == [3, 5]


@pytest.mark.parametrize("when", ["the next rollout", "the next save", "the end"])
async def test_a_write_that_failed_is_raised_at(when: str) -> None:
    trainer, report = Trainer(failure=StorageFailed("the checkpoint directory /checkpoints is full")), Report()
    async with asyncio.timeout(10), saving_of(trainer, report) as saves:
        await saves.save(3, {})
        with pytest.raises(StorageFailed, match="/checkpoints is full"):
            if when == "the next rollout":
                while True:
                    await saves.check()
                    await asyncio.sleep(0)
            await (saves.save(4, {}) if when == "the next save" else saves.durable())
    assert (trainer.saved, report.checkpoints) == ([3], [])


@dataclass
class Keeping(Trainer):
    """Keeps the newest alone, and has written when it says so."""

    written: bool = True

    async def save(self, rollout_id: int, directory: Path, extra_state: dict[str, Any]) -> Path:
        for old in directory.glob("iter_*"):
            old.rmdir()
        path = await super().save(rollout_id, directory, extra_state)
        path.mkdir()
        return path


@pytest.mark.parametrize("async_save", [False, True])
async def test_what_the_trainer_lets_go_of_is_reported_once_and_after_what_takes_its_place(
    async_save: bool, tmp_path: Path
) -> None:
    trainer, report = Keeping(), Report()
    async with saving_of(trainer, report, async_save=async_save, keep_last=1, directory=tmp_path) as saves:
        for rollout_id in range(3):
            await saves.save(rollout_id, {})
            await saves.durable()
    said = [line[:3] for line in report.lines if line[0] in ("checkpoint", "deleted")]
    assert said == [
        ("checkpoint", 0, "megatron"),
        ("checkpoint", 1, "megatron"),
        ("deleted", "megatron", "iter_0000000"),
        ("checkpoint", 2, "megatron"),
        ("deleted", "megatron", "iter_0000001"),
    ]


async def test_what_an_attempt_let_go_of_and_did_not_come_to_report_is_reported_by_the_next(tmp_path: Path) -> None:
    reported = {tmp_path / "iter_0000001", tmp_path / "iter_0000002"}
    (tmp_path / "iter_0000002").mkdir()
    report = Report(megatron_checkpoints=set(reported))
    async with saving_of(Trainer(), report, keep_last=1, directory=tmp_path):
        assert report.lines == [("deleted", "megatron", "iter_0000001")]
    untouched = Report(megatron_checkpoints=set(reported))
    async with saving_of(Trainer(), untouched, directory=tmp_path):
        assert untouched.lines == [], "a run that keeps all has deleted none"


def test_a_directory_that_cannot_be_read_says_nothing_of_what_is_missing(tmp_path: Path) -> None:
    elsewhere = Path("/elsewhere/iter_0000000")
    paths = [tmp_path / "iter_0000002", tmp_path / "iter_0000001", elsewhere]
    assert missing(paths, tmp_path) == [tmp_path / "iter_0000001", tmp_path / "iter_0000002"]
    assert missing(paths, tmp_path / "away") == []


async def test_a_run_that_is_cancelled_waits_for_no_write() -> None:
    trainer, report = Trainer(), Report()

    async def run() -> None:
        async with saving_of(trainer, report) as saves:
            await saves.save(3, {})
            await saves.durable()

    job = asyncio.create_task(run())
    await asyncio.wait_for(trainer.asked.wait(), 10)
    job.cancel()
    await asyncio.wait({job}, timeout=10)
    assert job.cancelled()
    assert report.checkpoints == []
    assert len(asyncio.all_tasks()) == 1
