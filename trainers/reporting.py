"""The driver's side of the wire: facts go to the spool, then to the API, in order and exactly once."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import httpx
from pydantic import ValidationError

from trainers.errors import StorageFailed
from trainers.reports import (
    CheckpointDeletedReport,
    CheckpointReport,
    EndReason,
    EvaluationReport,
    EventReport,
    FinishedReport,
    Phase,
    PhaseReport,
    PlanReport,
    Report,
    ReportBatch,
    ReportReply,
    ServingReport,
    StepReport,
    Wanted,
)
from trainers.spool import Fact, Spool

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
MAX_BACKOFF_S = 5.0
REQUEST_TIMEOUT_S = 30.0
BATCH = 500


class Reporter:
    """Reports what the run does and hears what is wanted of it.

    While the API is away, reports wait on disk and in memory. ``finish`` is set once the run should end well at
    its next boundary, ``stop`` once it should end now: cancelled, or ``superseded`` by another attempt.
    Without a ``spool_directory`` they wait in memory alone.
    """

    def __init__(self, *, url: str, token: str, spool_directory: Path | None, attempt: int) -> None:
        self.finish = asyncio.Event()
        self.stop = asyncio.Event()
        self.superseded = False
        self._url = url
        self._spool = Spool(spool_directory, attempt) if spool_directory is not None else None
        self._unsent: deque[Report] = deque()
        self._seq = 0
        self._megatron_checkpoints: set[Path] = set()
        self._new = asyncio.Event()
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"},
            timeout=REQUEST_TIMEOUT_S,
            transport=httpx.AsyncHTTPTransport(),  # no proxy of the environment, while its certificates count
        )
        self._sender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._spool is not None:
            for fact in self._spool.facts():
                self._remember(fact)
            begun, acked = self._spool.begun(), self._spool.acked
            self._seq = begun[-1].seq if begun else 0
            self._unsent.extend(report for report in begun if report.seq > acked)
            for report in self._spool.left_behind():
                self._put(report.model_copy(update={"seq": self._next()}))
            self._spool.taken_over()
        self._sender = asyncio.create_task(self._send_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sender is not None:
            self._sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sender
        await self._client.aclose()
        if self._spool is not None:
            self._spool.close()

    # What the run says.

    def event(
        self, type: str, message: str, *, level: Literal["info", "warning", "error"] = "info", **data: Any
    ) -> None:
        self._put(EventReport(seq=self._next(), at=_now(), level=level, type=type, message=message, data=data))

    def phase(self, phase: Phase, waiting_for: str) -> None:
        self._put(PhaseReport(seq=self._next(), at=_now(), phase=phase, waiting_for=waiting_for))

    def serving(self, router_url: str, model: str) -> None:
        self._put(ServingReport(seq=self._next(), at=_now(), router_url=router_url, model=model))

    def plan(self, num_rollouts: int) -> None:
        self._put(PlanReport(seq=self._next(), at=_now(), num_rollouts=num_rollouts))

    def step(self, rollout_id: int, weight_version: int, metrics: dict[str, float]) -> None:
        self._put(
            StepReport(
                seq=self._next(), at=_now(), rollout_id=rollout_id, weight_version=weight_version, metrics=metrics
            )
        )

    def checkpoint(self, rollout_id: int, format: Literal["megatron", "hf"], path: Path, weight_version: int) -> None:
        self._put(
            CheckpointReport(
                seq=self._next(),
                at=_now(),
                rollout_id=rollout_id,
                format=format,
                path=str(path),
                weight_version=weight_version,
            )
        )

    def checkpoint_deleted(self, format: Literal["megatron", "hf"], path: Path) -> None:
        self._put(CheckpointDeletedReport(seq=self._next(), at=_now(), format=format, path=str(path)))

    def evaluation(self, name: str, weight_version: int, metrics: dict[str, float], samples_path: Path) -> None:
        self._put(
            EvaluationReport(
                seq=self._next(),
                at=_now(),
                name=name,
                weight_version=weight_version,
                metrics=metrics,
                samples_path=str(samples_path),
            )
        )

    def finished(self, reason: EndReason, detail: str) -> None:
        self._put(FinishedReport(seq=self._next(), at=_now(), reason=reason, detail=detail))

    @property
    def megatron_checkpoints(self) -> frozenset[Path]:
        """Those that this or an earlier attempt reported, and none has reported as deleted."""
        return frozenset(self._megatron_checkpoints)

    def has_step(self, rollout_id: int) -> bool:
        """Whether this or an earlier attempt reported it."""
        return any(isinstance(fact, StepReport) and fact.rollout_id == rollout_id for fact in self._facts())

    def has_evaluation(self, weight_version: int) -> bool:
        return any(
            isinstance(fact, EvaluationReport) and fact.weight_version == weight_version for fact in self._facts()
        )

    async def drain(self, timeout_s: float) -> bool:
        """Wait until the API has confirmed everything, at most ``timeout_s`` seconds."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._unsent and not self.superseded:
            if asyncio.get_running_loop().time() > deadline:
                log.error(
                    "%d reports were not delivered within %.0f s; they stay on disk", len(self._unsent), timeout_s
                )
                return False
            await asyncio.sleep(0.05)
        return True

    # How it gets there.

    def _facts(self) -> Iterator[Fact]:
        return self._spool.facts() if self._spool is not None else iter(())

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _remember(self, report: Report) -> None:
        match report:
            case CheckpointReport(format="megatron", path=path):
                self._megatron_checkpoints.add(Path(path))
            case CheckpointDeletedReport(format="megatron", path=path):
                self._megatron_checkpoints.discard(Path(path))
            case _:
                pass

    def _put(self, report: Report) -> None:
        self._remember(report)
        self._unsent.append(report)
        self._new.set()
        if self._spool is None:
            return
        try:
            self._spool.append(report, durable=not isinstance(report, PhaseReport))
        except OSError as error:
            if not isinstance(report, FinishedReport):  # the last word is sent from memory whatever the disk says
                raise StorageFailed(f"cannot write the report spool: {error}") from error
            log.error("the last report could not be spooled: %s", error)

    async def _send_for_ever(self) -> None:
        failures = 0
        while not self.superseded:
            batch = [self._unsent[i] for i in range(min(BATCH, len(self._unsent)))]
            self._new.clear()
            reply = await self._post(batch)
            if reply is None:
                failures += 1
                await asyncio.sleep(min(MAX_BACKOFF_S, 0.2 * 2 ** min(failures, 6)))
                continue
            failures = 0
            self._hear(reply)
            if len(self._unsent) == 0 or not batch:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._new.wait(), HEARTBEAT_S)

    async def _post(self, batch: list[Report]) -> ReportReply | None:
        try:
            response = await self._client.post(
                self._url,
                content=ReportBatch(reports=batch).model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
        except httpx.HTTPError as error:
            log.info("the API does not answer (%s); reports wait", error or type(error).__name__)
            return None
        if response.status_code == 410:
            return ReportReply(acked=0, wanted=Wanted.RUN, superseded=True)
        if response.status_code != 200:
            log.warning("the API answered %d: %s", response.status_code, response.text[:500])
            return None
        try:
            return ReportReply.model_validate_json(response.content)
        except ValidationError:  # a proxy's page, say
            log.warning("what answers at %s is not the API: %s", self._url, response.text[:500])
            return None

    def _hear(self, reply: ReportReply) -> None:
        before = len(self._unsent)
        while self._unsent and self._unsent[0].seq <= reply.acked:
            self._unsent.popleft()
        if len(self._unsent) < before and self._spool is not None:
            with contextlib.suppress(OSError):  # only costs a second delivery, which the API recognises
                self._spool.ack(reply.acked)
        self.superseded = reply.superseded
        if self.superseded or reply.wanted is Wanted.CANCEL:
            self.stop.set()
        if self.stop.is_set() or reply.wanted is Wanted.FINISH:
            self.finish.set()


def _now() -> datetime:
    return datetime.now(UTC)
