"""A job that converts weights: one process of its own, which holds no whole model, watched to its end."""

import asyncio
import os
import sys
import time
from pathlib import Path

from engines.process import SupervisedProcess
from trainers.config import ConversionConfig, ToMegatron
from trainers.errors import OutOfMemory, RunError, StorageFailed
from trainers.megatron.convert.status import Status, read_status
from trainers.reporting import Reporter
from trainers.reports import EndReason, Phase

POLL_S = 0.2
EVENT_EVERY_S = 10.0
STALLED_S = 1800.0
"""A parameter takes seconds, importing Megatron a minute: whoever says nothing new for so long waits for a disk."""
KILLED = 128 + 9


async def convert(config: ConversionConfig, run_id: str, attempt: int, run_dir: Path, report: Reporter) -> None:
    """Convert, and report how far it is and where the weights are then. Raises RunError with the reason that the
    conversion had. When it is cancelled, its process ends, and removes what is half written."""
    conversion = config.conversion
    to_megatron = isinstance(conversion, ToMegatron)
    save = Path(conversion.save or run_dir / ("checkpoints" if to_megatron else "hf"))
    status = run_dir / f"conversion-{attempt}.json"
    process = SupervisedProcess(
        "the conversion",
        [sys.executable, "-m", "trainers.megatron.convert", *_arguments(config, run_id, save, status)],
        log=run_dir / "logs" / f"conversion-{attempt}.log",
        env=os.environ,
    )
    report.phase(Phase.CONVERTING, f"the weights of {conversion.hf_checkpoint if to_megatron else conversion.load}")
    process.start()
    try:
        end = await _watch(process, status, save, report)
    finally:
        await process.stop()
    iteration = end.iteration
    report.event("converted", end.said)
    report.checkpoint(
        iteration or 0,
        "megatron" if to_megatron else "hf",
        save,
        0 if iteration is None else iteration + 1,
    )


def _arguments(config: ConversionConfig, run_id: str, save: Path, status: Path) -> list[str]:
    conversion = config.conversion
    shared = ["--hf-checkpoint", conversion.hf_checkpoint, "--save", str(save)]
    if conversion.check:
        shared.append("--check")
    before = ["--status", str(status), "--run-id", run_id]
    if isinstance(conversion, ToMegatron):
        return [*before, "hf-to-megatron", *shared]
    step = [] if conversion.ckpt_step is None else ["--ckpt-step", str(conversion.ckpt_step)]
    return [*before, "megatron-to-hf", "--load", conversion.load, *step, *shared]


async def _watch(process: SupervisedProcess, status: Path, save: Path, report: Reporter) -> Status:
    """To its good end."""
    last: Status | None = None
    heard, told = time.monotonic(), -EVENT_EVERY_S
    while True:
        returncode = process.returncode  # asked first: what it said at its end is then there
        found = await asyncio.to_thread(read_status, status)
        if returncode is not None:
            return _ended(found, returncode, process)
        now = time.monotonic()
        if found is not None and found != last:
            last, heard = found, now
            if not found.last:
                report.phase(Phase.CONVERTING, found.said)
                if now - told >= EVENT_EVERY_S:
                    told = now
                    report.event("conversion_progress", found.said)
        if now - heard > STALLED_S:
            where = f"after {last.said!r}" if last else "since it began"
            raise StorageFailed(f"the conversion to {save} made no progress for {STALLED_S:.0f} s {where}")
        await asyncio.sleep(POLL_S)


def _ended(status: Status | None, returncode: int, process: SupervisedProcess) -> Status:
    if status is not None and returncode == 0 and status.written is not None:
        return status
    if status is not None and status.failure is not None:
        raise _error(status.failure)(status.said)
    if returncode == KILLED:
        raise OutOfMemory("the conversion was killed, as a host does that runs out of memory")
    raise RunError(f"the conversion ended with exit code {returncode}; its last lines:\n{process.last_lines()}")


def _error(reason: EndReason) -> type[RunError]:
    return next((kind for kind in RunError.__subclasses__() if kind.reason is reason), RunError)
