"""Answers "how is this job?" to many pollers: one small indexed query for all who ask at the same moment, and the
rendered answer kept for as long as the job's revision stays the same."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import orjson
from sqlalchemy import select

from controlplane.db import Database, Lookup
from controlplane.errors import NotFound
from controlplane.jobs import repository as jobs
from controlplane.jobs.models import AttemptRow, JobRow
from controlplane.jobs.schemas import AttemptView, JobSummary, JobView, Progress
from controlplane.jobs.states import JobState

CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    revision: int
    body: bytes
    """A JobView, as JSON."""

    @property
    def etag(self) -> str:
        return f'"{self.revision}"'


class JobSnapshots:
    def __init__(self, database: Database, public_url: str) -> None:
        self._database = database
        self._revisions = Lookup(database.url, "SELECT id, revision FROM jobs WHERE id = ANY($1::text[])")
        self._public_url = public_url.rstrip("/")
        self._kept: OrderedDict[str, Snapshot] = OrderedDict()
        self._asking: dict[str, list[asyncio.Future[int | None]]] = {}
        self._round: asyncio.Task[None] | None = None

    async def get(self, job_id: str) -> Snapshot:
        """The job as it is now: never older than this call. Raises NotFound."""
        jobs.check_id(job_id)
        revision = await self._revision(job_id)
        kept = self._kept.get(job_id)
        if kept is not None and kept.revision == revision:
            self._kept.move_to_end(job_id)
            return kept
        if revision is None:
            raise NotFound(f"there is no job {job_id}")
        fresh = await self._render(job_id)
        newest = self._kept.get(job_id)
        if newest is None or newest.revision < fresh.revision:
            self._kept[job_id] = fresh
            if len(self._kept) > CAPACITY:
                self._kept.popitem(last=False)
        return fresh

    async def close(self) -> None:
        if self._round is not None:
            await self._round
        await self._revisions.close()

    async def _revision(self, job_id: str) -> int | None:
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._asking.setdefault(job_id, []).append(future)
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._answer())
        return await future

    async def _answer(self) -> None:
        """Ask the database for everyone who asked since the last query began, until nobody is left."""
        while self._asking:
            asking, self._asking = self._asking, {}
            try:
                found: dict[str, int] = dict(await self._revisions.fetch(list(asking)))
            except BaseException as error:
                self._settle(asking, error)
                if not isinstance(error, Exception):
                    raise
                continue
            self._settle(asking, found)

    @staticmethod
    def _settle(asking: dict[str, list[asyncio.Future[int | None]]], outcome: dict[str, int] | BaseException) -> None:
        for job_id, futures in asking.items():
            for future in futures:
                if future.done():  # whoever asked has hung up
                    continue
                if isinstance(outcome, dict):
                    future.set_result(outcome.get(job_id))
                elif isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.cancel()

    async def _render(self, job_id: str) -> Snapshot:
        async with self._database.begin() as session:
            # Shared lock: the attempts that are read next belong to this revision of the job.
            job = (await session.scalars(select(JobRow).where(JobRow.id == job_id).with_for_update(read=True))).one()
            attempts = await jobs.attempts(session, job_id)
        view = job_view(job, attempts, self._public_url)
        return Snapshot(job.revision, orjson.dumps(view.model_dump(mode="json")))


def job_view(job: JobRow, attempts: list[AttemptRow], public_url: str) -> JobView:
    serving = job.router_url is not None and job.state == JobState.RUNNING
    return JobView(
        **dict(job_summary(job)),
        openai_base_url=f"{public_url}/v1/jobs/{job.id}/openai/v1" if serving else None,
        router_url=job.router_url if serving else None,
        served_model=job.served_model if serving else None,
        attempts=[AttemptView.model_validate(attempt) for attempt in attempts],
        spec=job.spec,
    )


def job_summary(job: JobRow) -> JobSummary:
    own = {name: getattr(job, name) for name in JobSummary.model_fields if name != "progress"}
    return JobSummary(**own, progress=Progress.model_validate(job))
