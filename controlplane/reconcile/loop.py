"""Looks after jobs: claims those that are due, reconciles each, renews leases, outlives outages, drains."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from datetime import UTC, datetime

from controlplane.cluster.base import ClusterUnavailable
from controlplane.db import Database
from controlplane.errors import DatabaseUnavailable, LeaseLost
from controlplane.jobs import repository as jobs
from controlplane.reconcile.decide import Timing
from controlplane.reconcile.jobs import Claim, JobReconciler

log = logging.getLogger(__name__)

CONCURRENCY = 8
"""Jobs in hand at once: each may wait for the cluster, none may hold up the others for long."""
MAX_BACKOFF_S = 10.0
DRAIN_S = 20.0


class Reconciler:
    """``wake`` makes it look at once; without it, it looks every ``timing.tick_s`` seconds."""

    def __init__(self, *, database: Database, reconciler: JobReconciler, wake: asyncio.Event, timing: Timing) -> None:
        self._database = database
        self._jobs = reconciler
        self._wake = wake
        self._timing = timing
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._in_hand: dict[asyncio.Task[None], str] = {}
        self._stopping = False
        self._listening_since = datetime.now(UTC)
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listening_since = datetime.now(UTC)
        self._loop = asyncio.create_task(self._run(), name="reconciler")

    async def drain(self) -> None:
        """Claim nothing more, wait for what is in hand, at most 20 s; what is cut off is done by the next process."""
        self._stopping = True
        self._wake.set()
        if self._loop is not None:
            await self._loop
        if self._in_hand:
            _, late = await asyncio.wait(self._in_hand, timeout=DRAIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        renewed_at = asyncio.get_running_loop().time()
        while not self._stopping:
            pause_s = self._timing.tick_s
            self._wake.clear()
            try:
                await self._claim()
                if asyncio.get_running_loop().time() - renewed_at > self._timing.lease_s / 3:
                    renewed_at = asyncio.get_running_loop().time()
                    await self._renew()
                failures = 0
            except DatabaseUnavailable as error:
                failures += 1
                # While the database is away no report comes in either: silence then says nothing of the drivers.
                self._listening_since = datetime.now(UTC)
                pause_s = min(MAX_BACKOFF_S, self._timing.tick_s * 2 ** min(failures, 6))
                log.warning("%s; next look in %.1f s", error, pause_s)
            except Exception:
                # The loop is the one thing here that must go on; a bug in it shows in the log at every look.
                log.exception("the reconciler could not look for jobs")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _claim(self) -> None:
        room = CONCURRENCY - len(self._in_hand)
        if room <= 0:
            return
        async with self._database.begin() as session:
            claimed = await jobs.claim_due(
                session,
                owner=self._owner,
                lease_s=self._timing.lease_s,
                limit=room,
                interval_s=self._timing.tick_s,
                running_interval_s=self._timing.running_interval_s,
            )
        for job_id, lease_token, now in claimed:
            task = asyncio.create_task(self._work(Claim(job_id, lease_token, now)), name=f"reconcile {job_id}")
            self._in_hand[task] = lease_token
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._in_hand[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def _renew(self) -> None:
        if self._in_hand:
            async with self._database.begin() as session:
                await jobs.renew_leases(session, list(self._in_hand.values()), self._timing.lease_s)

    async def _work(self, claim: Claim) -> None:
        due_in_s: float | None = None
        try:
            while await self._jobs.reconcile(claim, self._listening_since):
                pass
        except LeaseLost as lost:
            log.info("%s", lost)
            due_in_s = 0.0
        except ClusterUnavailable as error:
            log.warning("%s waits, the cluster does not answer: %s", claim.job_id, error)
            due_in_s = self._timing.outage_delay_s
        except DatabaseUnavailable as error:
            log.warning("%s waits: %s", claim.job_id, error)
            return  # the lease runs out by itself
        except Exception:
            due_in_s = MAX_BACKOFF_S
            raise
        finally:
            await self._give_back(claim, due_in_s)
        self._wake.set()

    async def _give_back(self, claim: Claim, due_in_s: float | None) -> None:
        try:
            async with self._database.begin() as session:
                await jobs.release_lease(session, claim.lease_token, due_in_s=due_in_s)
        except DatabaseUnavailable as error:
            log.warning("the lease of %s runs out by itself: %s", claim.job_id, error)
