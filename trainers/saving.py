"""The checkpoints of one run, each reported once it is durable, and once it is no longer kept."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Self

from trainers.reports import Phase
from trainers.run import Run, Training

log = logging.getLogger(__name__)

POLL_S = 0.25


class Saving:
    """Saves, at once or while training goes on (``checkpoint.async_save``). Use as a context manager: what is not yet
    durable when it is left is given up."""

    def __init__(self, run: Run, training: Training):
        self._run, self._training = run, training
        self._under_way: asyncio.Task[None] | None = None
        self._rollout_id = 0

    async def __aenter__(self) -> Self:
        await self._report_deleted()  # by an attempt that ended before it could say so
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.gather(self._under_way, return_exceptions=True)

    async def save(self, rollout_id: int, metrics: Mapping[str, float]) -> None:
        """Save this rollout, after the one that is being written. ``metrics``: what there is of its own, for a run that
        ends before it could report them. Raises StorageFailed, for either."""
        run, training = self._run, self._training
        await self.durable()
        run.report.phase(Phase.SAVING, f"the checkpoint of rollout {rollout_id} in {training.checkpoints}")
        state = {"data": run.data.state() if run.data is not None else None, "metrics": dict(metrics)}
        path = await training.trainer.save(rollout_id, training.checkpoints, state)
        if not run.config.checkpoint.async_save:
            await self._report_saved(rollout_id, path)
            return
        self._rollout_id = rollout_id
        self._under_way = asyncio.create_task(self._report_when_durable(rollout_id, path))

    async def durable(self) -> None:
        """Return once nothing is being written any more; the trainer bounds how long that takes. Raises
        StorageFailed."""
        if self._under_way is None:
            return
        if not self._under_way.done():
            text = f"the checkpoint of rollout {self._rollout_id} to be written to {self._training.checkpoints}"
            self._run.report.phase(Phase.SAVING, text)
        await self._under_way
        self._under_way = None

    async def check(self) -> None:
        """Raise StorageFailed if what was being written could not be; wait for nothing."""
        if self._under_way is not None and self._under_way.done():
            await self.durable()

    async def _report_when_durable(self, rollout_id: int, path: Path) -> None:
        settled = await self._training.trainer.save_settled()
        while not settled:
            await asyncio.sleep(POLL_S)
            settled = await self._training.trainer.save_settled()
        await self._report_saved(rollout_id, path)

    async def _report_saved(self, rollout_id: int, path: Path) -> None:
        self._run.report.checkpoint(rollout_id, "megatron", path, rollout_id + 1)
        await self._report_deleted()

    async def _report_deleted(self) -> None:
        """What the trainer let go of, as ``checkpoint.keep_last`` wants it. Found by what is left rather than by what
        the trainer says: a trainer that is lost says nothing any more."""
        report = self._run.report
        reported = report.megatron_checkpoints
        if self._run.config.checkpoint.keep_last is None or not reported:
            return
        for path in await asyncio.to_thread(missing, reported, self._training.checkpoints):
            report.checkpoint_deleted("megatron", path)


def missing(paths: Collection[Path], directory: Path) -> list[Path]:
    """Which of these paths in ``directory`` are not there, in order; none when it cannot be said."""
    try:
        # Listed: asked for a path alone, a network file system may answer from memory.
        there = {path.name for path in directory.iterdir()}
    except OSError as error:
        log.warning("cannot look which checkpoints are left in %s: %s", directory, error)
        return []
    return sorted(path for path in paths if path.parent == directory and path.name not in there)
