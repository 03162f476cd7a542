"""A cluster and drivers that do what a test tells them to."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx

from controlplane.cluster.base import ClusterUnavailable, DriverSeen, DriverStatus, driver_name
from trainers.reports import Launch

API_KEY = "the-key"
WAIT_S = 15.0


def spec(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": {"hf_checkpoint": "/models/toy"},
        "data": {"prompt_data": "/data/toy.jsonl"},
        "rollout": {"num_rollouts": 5, "rollout_batch_size": 2, "n_samples_per_prompt": 4},
    }
    return body | changes


class ScriptedCluster:
    def __init__(self) -> None:
        self.launches: dict[str, Launch] = {}
        self.started: list[str] = []
        self.seen: dict[str, DriverSeen] = {}
        self.released: list[str] = []
        self.away = False
        self.refused = 0
        """How often it was asked while it was away."""
        self.first_status = DriverStatus.ALIVE
        self.holds = False
        """While set, nothing is given back."""
        self.before_observe: Callable[[str], Awaitable[None]] | None = None

    async def start_driver(self, name: str, launch: Launch) -> None:
        self._answer()
        self.started.append(name)
        if name not in self.seen:
            self.launches[name] = launch
            self.seen[name] = DriverSeen(self.first_status)

    async def observe(self, name: str) -> DriverSeen:
        self._answer()
        if self.before_observe is not None:
            await self.before_observe(name)
        return self.seen.get(name, DriverSeen(DriverStatus.ABSENT))

    async def release(self, name: str) -> bool:
        self._answer()
        if self.holds:
            return False
        self.released.append(name)
        self.seen.pop(name, None)
        return True

    async def describe(self) -> str:
        self._answer()
        return "1 node, 2 CPU"

    async def close(self) -> None: ...

    def kill(self, job_id: str, attempt: int, detail: str = "killed by the test") -> None:
        self.seen[driver_name(job_id, attempt)] = DriverSeen(DriverStatus.DEAD, detail)

    def _answer(self) -> None:
        if self.away:
            self.refused += 1
            raise ClusterUnavailable("the test took it away")


class Api:
    """The API as a test speaks to it."""

    def __init__(self, client: httpx.AsyncClient, cluster: ScriptedCluster) -> None:
        self.http = client
        self.cluster = cluster

    async def submit(self, **changes: Any) -> str:
        response = await self.http.post("/v1/jobs", json=spec(**changes))
        assert response.status_code == 202, response.text
        return response.json()["id"]

    async def job(self, job_id: str) -> dict[str, Any]:
        response = await self.http.get(f"/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        return response.json()

    async def until(self, job_id: str, *states: str, **expected: Any) -> dict[str, Any]:
        """The job, once it is in one of ``states`` and shows what is ``expected``."""
        deadline = time.monotonic() + WAIT_S
        while True:
            job = await self.job(job_id)
            if job["state"] in states and all(job[key] == value for key, value in expected.items()):
                return job
            assert time.monotonic() < deadline, f"waited for {states} {expected}, the job is {job}"
            await asyncio.sleep(0.02)

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        return (await self.http.get(f"/v1/jobs/{job_id}/events", params={"limit": 1000})).json()["items"]

    async def driver(self, job_id: str, attempt: int = 1) -> "Driver":
        """The attempt's driver, once the cluster was asked to start it."""
        name = driver_name(job_id, attempt)
        deadline = time.monotonic() + WAIT_S
        while name not in self.cluster.launches:
            assert time.monotonic() < deadline, f"{name} was not started: {await self.job(job_id)}"
            await asyncio.sleep(0.02)
        return Driver(self.http, self.cluster.launches[name])


class Driver:
    """What the driver of one attempt reports."""

    def __init__(self, client: httpx.AsyncClient, launch: Launch) -> None:
        self._http = client
        self.launch = launch
        self.seq = 0

    def report(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.seq += 1
        return {"kind": kind, "seq": self.seq, "at": datetime.now(UTC).isoformat(), **fields}

    def take_over(self, report: dict[str, Any], attempt: int) -> dict[str, Any]:
        """As what this driver found in the spool of an earlier attempt."""
        self.seq += 1
        return report | {"seq": self.seq, "origin": {"attempt": attempt, "seq": report["seq"]}}

    def step(self, rollout_id: int, **metrics: float | str) -> dict[str, Any]:
        return self.report(
            "step", rollout_id=rollout_id, weight_version=rollout_id + 2, metrics={"reward": 0.5, **metrics}
        )

    def serving(self, router_url: str = "http://127.0.0.1:1/v1") -> dict[str, Any]:
        return self.report("serving", router_url=router_url, model="toy")

    def finished(self, reason: str = "finished", detail: str = "") -> dict[str, Any]:
        return self.report("finished", reason=reason, detail=detail)

    async def post(self, *reports: dict[str, Any], token: str | None = None) -> httpx.Response:
        return await self._http.post(
            self.launch.report_url,
            json={"reports": list(reports)},
            headers={"Authorization": f"Bearer {token or self.launch.report_token}"},
        )

    async def tell(self, *reports: dict[str, Any]) -> dict[str, Any]:
        response = await self.post(*reports)
        assert response.status_code == 200, response.text
        return response.json()
