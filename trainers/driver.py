"""One attempt at one job: assemble the parts, run the loop, release everything, say how it ended."""

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from trainers.config import ConversionConfig, RunConfig
from trainers.errors import StorageFailed
from trainers.outcome import end_of
from trainers.reporting import Reporter
from trainers.reports import EndReason, Launch

log = logging.getLogger(__name__)

# A driver that cannot deliver its end waits for the API this long; the facts stay on disk beyond it.
DRAIN_S = 7 * 24 * 3600.0
RELEASE_S = 120.0


class Driver:
    """A detached Ray actor. Its methods never raise: what goes wrong is reported."""

    def __init__(self, launch: dict[str, Any]) -> None:
        self._launch = Launch.model_validate(launch)

    async def run(self) -> None:
        launch = self._launch
        run_dir = Path(launch.run_dir)
        async with AsyncExitStack() as stack:
            try:
                _log_to(run_dir / "logs" / f"driver-{launch.attempt}.log")
                report = await stack.enter_async_context(self._reporter(run_dir / "reports"))
            except (OSError, StorageFailed) as error:
                report = await stack.enter_async_context(self._reporter(None))
                reason, detail = EndReason.STORAGE_FAILED, f"the run directory {run_dir} cannot be used: {error}"
            else:
                reason, detail = await self._end(run_dir, report)
            log.info("ended: %s %s", reason, detail)
            if not report.superseded:
                report.finished(reason, detail)
                await report.drain(DRAIN_S)

    def _reporter(self, spool_directory: Path | None) -> Reporter:
        launch = self._launch
        return Reporter(
            url=launch.report_url, token=launch.report_token, spool_directory=spool_directory, attempt=launch.attempt
        )

    async def _end(self, run_dir: Path, report: Reporter) -> tuple[EndReason, str]:
        """Run to the end, however it comes: by itself, by an error, or because it is wanted."""
        job = asyncio.create_task(self._work(run_dir, report))
        stop = asyncio.create_task(report.stop.wait())
        await asyncio.wait({job, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not job.done():
            job.cancel()
            _, late = await asyncio.wait({job}, timeout=RELEASE_S)
            if late:
                log.error("the run did not release its parts within %.0f s", RELEASE_S)
            return EndReason.CANCELLED_BY_USER, ""
        if job.cancelled():  # by nobody here: taken for an end it would pass for a run that did all it should
            log.error("the run was cancelled from within")
            return EndReason.INTERNAL_ERROR, "something within the run was cancelled, and with it the run"
        error = job.exception()
        if error is None:
            return EndReason.FINISHED, ""
        log.error("the run failed", exc_info=error)
        return end_of(error)

    async def _work(self, run_dir: Path, report: Reporter) -> None:
        if "conversion" in self._launch.spec:
            from trainers.conversion import convert

            wanted = ConversionConfig.model_validate(self._launch.spec)
            await convert(wanted, self._launch.job_id, self._launch.attempt, run_dir, report)
            return
        from trainers.assembly import assembled  # brings in the tokenizer's and Ray's libraries
        from trainers.loop import generate_only, train

        config = RunConfig.model_validate(self._launch.spec)
        async with assembled(
            config, f"job-{self._launch.job_id}-{self._launch.attempt}", self._launch.job_id, run_dir, report
        ) as run:
            await (train(run, run.training) if run.training is not None else generate_only(run))


def _log_to(path: Path) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=path, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
