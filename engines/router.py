"""The router: one address for all engines of a job."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from engines.errors import EngineLost, EngineRefused, EngineStartError, WaitTimeout
from engines.network import free_port, http_url
from engines.process import SupervisedProcess

BIND_ATTEMPTS = 3
START_TIMEOUT_S = 60.0
_TIMEOUT = aiohttp.ClientTimeout(total=10.0)


class Router:
    """An sglang-router process on this node, ended with this object's process."""

    def __init__(self, *, host: str, log_dir: Path, request_timeout_s: float):
        self._host = host
        self._log_dir = log_dir
        self._request_timeout_s = request_timeout_s
        self._process: SupervisedProcess | None = None
        self._url: str | None = None

    @property
    def url(self) -> str:
        """Without a path: ``/generate`` and ``/v1/…`` are below it."""
        if self._url is None:
            raise RuntimeError("the router is not started")
        return self._url

    async def start(self) -> None:
        """Raises EngineStartError, with the end of its log, when it ends or does not answer in time."""
        for attempt in range(1, BIND_ATTEMPTS + 1):
            port = free_port(self._host)
            process = self._process = self._spawn(port)
            self._url = http_url(self._host, port)
            try:
                await self._wait_alive(process)
            except EngineStartError:
                await process.stop()
                if attempt == BIND_ATTEMPTS or "in use" not in process.last_lines(200):
                    raise
            else:
                return

    def check(self) -> None:
        """Raises EngineLost when the process is gone."""
        process = self._process
        if process is not None and process.returncode is not None:
            raise EngineLost(
                f"the router ended with status {process.returncode}; last lines of {process.log}:\n"
                f"{process.last_lines()}"
            )

    async def register(self, url: str, *, timeout_s: float) -> None:
        """Let requests go to the engine at ``url``. Returns when the router would send some. Raises WaitTimeout."""
        deadline = time.monotonic() + timeout_s
        await self._call("POST", "/workers", {"url": url})
        while True:
            worker = next((worker for worker in await self._workers() if worker.get("url") == url), None)
            if worker is not None and worker.get("is_healthy"):
                return
            self.check()
            if time.monotonic() > deadline:
                raise WaitTimeout(f"the router did not take {url} as a healthy worker within {timeout_s:.0f} s")
            await asyncio.sleep(0.05)

    async def registered(self) -> list[str]:
        """Addresses of the engines that requests may go to."""
        return [worker["url"] for worker in await self._workers() if worker.get("is_healthy")]

    async def close(self) -> None:
        """Safe to call again."""
        if self._process is not None:
            await self._process.stop()

    def _spawn(self, port: int) -> SupervisedProcess:
        log = self._log_dir / f"router-{port}.log"
        process = SupervisedProcess(
            "router",
            [sys.executable, "-m", "engines.router_process", json.dumps(self._options(port))],
            log=log,
            env=dict(os.environ),
            grace_s=3.0,
        )
        try:
            process.start()
        except OSError as error:
            raise EngineStartError(f"the router could not be started (log {log}): {error}") from error
        return process

    def _options(self, port: int) -> dict[str, Any]:
        return {
            "host": self._host,
            "port": port,
            # Its metrics have a default port, which two jobs on one node would fight over.
            "prometheus_host": self._host,
            "prometheus_port": free_port(self._host),
            # Independent prompts: an even split keeps all engines busy to the end of a rollout.
            "policy": "round_robin",
            # A request is retried by the client, which knows its id, and an engine's health is the fleet's to judge:
            # a router that did either would generate twice unseen, or turn away work while an engine is just busy.
            "disable_retries": True,
            "disable_circuit_breaker": True,
            "health_check_timeout_secs": 60,
            "health_failure_threshold": 1000,
            "health_success_threshold": 1,
            "worker_startup_check_interval": 1,
            "request_timeout_secs": int(self._request_timeout_s) + 60,
            "shutdown_grace_period_secs": 1,
            "log_level": "warn",
        }

    async def _wait_alive(self, process: SupervisedProcess) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as http:
            while True:
                if process.returncode is not None:
                    raise EngineStartError(
                        f"the router ended with status {process.returncode} before it was ready; last lines of "
                        f"{process.log}:\n{process.last_lines()}"
                    )
                try:
                    async with http.get(f"{self._url}/health") as reply:
                        if reply.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass  # not listening yet
                if time.monotonic() > deadline:
                    raise EngineStartError(
                        f"the router did not answer {self._url}/health within {START_TIMEOUT_S:.0f} s; last lines of "
                        f"{process.log}:\n{process.last_lines()}"
                    )
                await asyncio.sleep(0.05)

    async def _workers(self) -> list[dict[str, Any]]:
        return (await self._call("GET", "/workers"))["workers"]

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as http,
                http.request(method, self.url + path, json=body) as reply,
            ):
                if reply.status >= 400:
                    raise EngineRefused(f"the router answered {reply.status} to {method} {path}: {await reply.text()}")
                return await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.check()
            raise EngineLost(f"the router at {self.url} did not answer {method} {path}: {error!r}") from error
