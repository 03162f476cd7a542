"""A Rollway of the tests' own, started and stopped as a user does: with the command line."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROLLWAY = Path(sys.executable).with_name("rollway")
IN_FLIGHT = ("queued", "starting", "running", "stopping")


@dataclass(frozen=True, slots=True)
class Service:
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith(("ROLLWAY_", "RAY_"))} | {
            "ROLLWAY_HOME": str(self.home)
        }

    def command(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run ``rollway …``; what it prints. Raises AssertionError, with its output, when it fails."""
        done = subprocess.run(
            [str(ROLLWAY), *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, f"rollway {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def endpoint(self) -> dict[str, Any]:
        return json.loads((self.home / "endpoint.json").read_text())

    def client(self) -> httpx.AsyncClient:
        key = (self.home / "api_key").read_text().strip()
        return httpx.AsyncClient(
            base_url=self.endpoint["url"], headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False
        )

    async def submit(self, spec: dict[str, Any]) -> str:
        async with self.client() as http:
            reply = await http.post("/v1/jobs", json=spec)
            assert reply.status_code == 202, reply.text
            return reply.json()["id"]

    async def job(self, job_id: str) -> dict[str, Any]:
        async with self.client() as http:
            return (await http.get(f"/v1/jobs/{job_id}")).raise_for_status().json()

    async def rows(self, job_id: str, what: str) -> list[dict[str, Any]]:
        async with self.client() as http:
            reply = await http.get(f"/v1/jobs/{job_id}/{what}", params={"limit": 500})
            return reply.raise_for_status().json()["items"]

    async def until(
        self, job_id: str, condition: Callable[[dict[str, Any]], bool], what: str, timeout_s: float
    ) -> dict[str, Any]:
        """The job, once ``condition`` holds; it must come to hold while the job is in flight or at its end."""
        job: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    job = await self.job(job_id)
                    if condition(job):
                        return job
                    assert job["state"] in IN_FLIGHT, f"the job ended before {what}: {json.dumps(job, indent=1)}"
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"not within {timeout_s} s: {what}; {json.dumps(job, indent=1)}") from None

    async def ended(self, job_id: str, timeout_s: float) -> dict[str, Any]:
        return await self.until(job_id, lambda job: job["state"] not in IN_FLIGHT, "its end", timeout_s)

    def processes(self, *words: str) -> dict[int, str]:
        """Processes that this installation's Ray started, by id, whose command holds one of ``words``."""
        token = f"RAY_AUTH_TOKEN_PATH={self.home}/".encode()
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # ended meanwhile
            if token in environment and any(word in command for word in words):
                found[int(entry.name)] = command
        return found

    async def left_behind(self) -> dict[int, str]:
        """What jobs still run once they have ended. Of a process that was still starting, Ray says that it is dead a
        moment before its signal has come through."""
        deadline = time.monotonic() + 5
        while (found := self.job_processes()) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return found

    def job_processes(self) -> dict[int, str]:
        """What jobs run: drivers, trainer ranks, engines and their servers, routers."""
        return self.processes("ray::Driver", "ray::TrainRank", "ray::SGLangEngine", "sglang")
