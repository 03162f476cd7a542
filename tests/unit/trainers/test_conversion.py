"""A conversion's process, watched to its end."""

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engines.process import SupervisedProcess
from trainers import conversion
from trainers.config import ConversionConfig
from trainers.conversion import convert
from trainers.errors import CheckpointInvalid, OutOfMemory, RunError, StorageFailed
from trainers.reports import Phase

CONFIG = ConversionConfig.model_validate(
    {"conversion": {"to": "hf", "load": "/c", "hf_checkpoint": "/m", "check": True}}
)
SAYS = """
import json, os, signal, sys, time
from pathlib import Path

status = Path(sys.argv[sys.argv.index("--status") + 1])

def say(**what):
    status.with_name("new").write_text(json.dumps(what))
    status.with_name("new").replace(status)

say(said="written: 1 of 2 parameters")
while status.exists() and not (status.parent / "go on").exists():
    time.sleep(0.01)
"""


@dataclass
class Report:
    lines: list[tuple[Any, ...]] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: Path | None = None

    def phase(self, phase: Phase, waiting_for: str) -> None:
        self.lines.append((phase, waiting_for))

    def event(self, type: str, message: str) -> None:
        self.lines.append((type, message))
        self.heard.set()
        if self.go_on is not None:
            self.go_on.touch()

    def checkpoint(self, *what: Any) -> None:
        self.lines.append(("checkpoint", *what))


@dataclass
class Running:
    script: str
    directory: Path
    monkeypatch: pytest.MonkeyPatch
    report: Report = field(default_factory=Report)
    commands: list[list[str]] = field(default_factory=list)
    processes: list[SupervisedProcess] = field(default_factory=list)

    async def __call__(self, *, goes_on: bool = True) -> None:
        def process(name: str, command: list[str], **options: Any) -> SupervisedProcess:
            self.commands.append(command)
            self.processes.append(
                SupervisedProcess(name, [sys.executable, "-c", SAYS + self.script, *command[3:]], **options)
            )
            return self.processes[-1]

        self.monkeypatch.setattr(conversion, "SupervisedProcess", process)
        self.monkeypatch.setattr(conversion, "POLL_S", 0.01)
        self.report.go_on = self.directory / "go on" if goes_on else None
        report: Any = self.report
        async with asyncio.timeout(30):
            await convert(CONFIG, "job_1", 2, self.directory, report)


async def test_what_it_says_is_reported_and_where_the_weights_are_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Running('say(said="all there", written="/w", iteration=7)', tmp_path, monkeypatch)
    await run()
    status, save = tmp_path / "conversion-2.json", tmp_path / "hf"
    told = ["--status", str(status), "--run-id", "job_1", "megatron-to-hf", "--load", "/c", "--hf-checkpoint", "/m"]
    assert run.commands == [[sys.executable, "-m", "trainers.megatron.convert", *told, "--save", str(save), "--check"]]
    assert run.report.lines == [
        (Phase.CONVERTING, "the weights of /c"),
        (Phase.CONVERTING, "written: 1 of 2 parameters"),
        ("conversion_progress", "written: 1 of 2 parameters"),
        ("converted", "all there"),
        ("checkpoint", 7, "hf", save, 8),
    ]


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ('say(said="it is damaged", failure="checkpoint_invalid"); sys.exit(1)', CheckpointInvalid, "^it is damaged$"),
        ("os.kill(os.getpid(), signal.SIGKILL)", OutOfMemory, "killed, as a host does that runs out of memory"),
        ('raise ZeroDivisionError("by zero")', RunError, "(?s)exit code 1; its last lines.*ZeroDivisionError: by zero"),
    ],
)
async def test_it_ends_with_the_reason_that_the_conversion_had(
    script: str, error: type[RunError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Running(script, tmp_path, monkeypatch)
    with pytest.raises(error, match=words) as raised:
        await run()
    assert type(raised.value) is error
    assert "checkpoint" not in [line[0] for line in run.report.lines]


async def test_one_that_makes_no_progress_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "STALLED_S", 0.2)
    run = Running("", tmp_path, monkeypatch)
    with pytest.raises(StorageFailed, match=r"to .*/hf made no progress"):
        await run(goes_on=False)
    assert run.processes[0].returncode is not None


async def test_one_that_is_cancelled_ends_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Running("", tmp_path, monkeypatch)
    work = asyncio.create_task(run(goes_on=False))
    await asyncio.wait_for(run.report.heard.wait(), 30)
    work.cancel()
    await asyncio.wait({work}, timeout=30)
    assert work.cancelled()
    assert run.processes[0].returncode is not None
