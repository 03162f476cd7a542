"""One SGLang server on one node: started, watched and ended by a Ray actor."""

import asyncio
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from engines.config import EngineConfig
from engines.errors import EngineError, EngineLost, EngineOutOfMemory, EngineStartError
from engines.hardware.base import Hardware
from engines.network import free_port, http_url
from engines.process import SupervisedProcess
from engines.sglang.args import server_options
from engines.sglang.weights import SGLangReceiver

BIND_ATTEMPTS = 3
_WARM_UP = aiohttp.ClientTimeout(total=120.0)
"""For one attempt at the first token; kernels may be compiled for it."""
_PORT_TAKEN = ("address already in use", "EADDRINUSE", "is already in use")
_NO_MEMORY = re.compile(
    # PyTorch's, CUDA's and ROCm's, Python's, the C library's, SGLang's
    r"\bOutOfMemoryError\b|\b(?:CUDA|HIP) out of memory|CUDA error: out of memory|^[\w.]*MemoryError\b"
    r"|[Cc]annot allocate memory|can't allocate memory"
    r"|Not enough memory\. Please|(?:Prefill|Decode) out of memory|Out of memory even after|runs out of memory"
)
_LOG_LINES = 400
"""From the end of the log, in which the cause is looked for: beside a rank's words stand those of its neighbours."""
_KILLED = 128 + signal.SIGKILL
_KILLS_ITSELF = re.compile(r"SIGQUIT received|Received sigquit")
"""The server, of which a process of its own failed in whatever way: it ends itself by SIGKILL then."""
_CHILD_KILLED = re.compile(r"(?:exit code:?|terminated with) -9\b")


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """Everything an engine needs to begin."""

    index: int
    model_path: str
    config: EngineConfig
    hardware: Hardware
    tp_size: int
    log_dir: Path
    env_vars: Mapping[str, str] = field(default_factory=dict[str, str])
    """The job's own, for the server process."""

    @property
    def name(self) -> str:
        return f"engine-{self.index}"


class SGLangEngine:
    """Hosts one server process. An asyncio actor: :meth:`health` answers while :meth:`start` still waits."""

    def __init__(self, launch: EngineLaunch, host: str | None = None):
        self._launch = launch
        self._host = host
        self._process: SupervisedProcess | None = None
        self._receiver: SGLangReceiver | None = None

    async def start(self) -> SGLangReceiver:
        """Start the server and wait until it generates. Raises EngineStartError or EngineOutOfMemory as soon as the
        process ends or refuses, or when ``engine.start_timeout_s`` has passed; the text has the end of its log."""
        host = self._host or _node_ip()
        deadline = time.monotonic() + self._launch.config.start_timeout_s
        for attempt in range(1, BIND_ATTEMPTS + 1):
            port = free_port(host)
            process = self._process = self._spawn(host, port)
            try:
                await self._wait_ready(process, http_url(host, port), deadline)
                await _freeze_garbage_collector(http_url(host, port))
            except EngineError:
                await process.stop()
                log = process.last_lines()
                if attempt < BIND_ATTEMPTS and any(words in log for words in _PORT_TAKEN):
                    continue
                raise
            self._receiver = SGLangReceiver(
                name=self._launch.name,
                url=http_url(host, port),
                num_ranks=self._launch.tp_size,
                model_path=self._launch.model_path,
                incarnation=uuid.uuid4().hex,
                caches_prefixes=not self._launch.config.sglang.get("disable_radix_cache", False),
            )
            return self._receiver
        raise AssertionError("the last attempt returns or raises")

    async def health(self) -> None:
        """Raises EngineLost or EngineOutOfMemory, with the end of the log, when the server process is gone."""
        process = self._process
        if process is not None and process.returncode is not None:
            raise self._ended(process, process.returncode)

    async def describe(self) -> dict[str, object]:
        """Where it runs: for events and error texts."""
        return {
            "name": self._launch.name,
            "url": self._receiver.url if self._receiver else None,
            "log": str(self._process.log) if self._process else None,
            "guard_pid": self._process.pid if self._process else None,
            "actor_pid": os.getpid(),
        }

    async def stop(self) -> None:
        """End the server and all its children. Safe to call again."""
        if self._process is not None:
            await self._process.stop()

    def _spawn(self, host: str, port: int) -> SupervisedProcess:
        launch = self._launch
        options = server_options(
            launch.config,
            launch.hardware,
            model_path=launch.model_path,
            host=host,
            port=port,
            tp_size=launch.tp_size,
            index=launch.index,
        )
        log = launch.log_dir / f"{launch.name}-{port}.log"
        process = SupervisedProcess(
            launch.name,
            [sys.executable, "-m", "engines.sglang.launch", json.dumps(options)],
            log=log,
            env=_server_environment(launch.hardware, launch.env_vars, grpc_port=free_port(host)),
        )
        try:
            process.start()
        except OSError as error:
            raise EngineStartError(f"{launch.name} could not be started (log {log}): {error}") from error
        return process

    def _ended(self, process: SupervisedProcess, status: int, *, ready: bool = True) -> EngineError:
        """What the end of the server process means, as far as its status and its log tell."""
        log = process.last_lines(_LOG_LINES)
        kind: type[EngineError] = EngineLost if ready else EngineStartError
        why = "" if ready else " before it was ready"
        said = next((line for line in log.splitlines() if _NO_MEMORY.search(line)), None)
        if said is not None:
            kind = EngineOutOfMemory
            why += f", out of memory: {said[:300]}"
        elif _CHILD_KILLED.search(log) or (status == _KILLED and not _KILLS_ITSELF.search(log)):
            why += ", by SIGKILL, which is also what the kernel sends when the host's memory runs out"
        return kind(
            f"{self._launch.name}: the SGLang server ended with status {status}{why}; "
            f"last lines of {process.log}:\n{process.last_lines()}"
        )

    async def _wait_ready(self, process: SupervisedProcess, url: str, deadline: float) -> None:
        timeout = aiohttp.ClientTimeout(total=5.0)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            while True:
                if process.returncode is not None:
                    raise self._ended(process, process.returncode, ready=False)
                if not await _is_ready(http, url):
                    missing = f"answer {url}/health"
                elif not (instead := await self._first_token(process, http, url)):
                    return
                else:
                    missing = f"generate a token ({url}/generate: {instead})"
                if time.monotonic() > deadline:
                    raise EngineStartError(
                        f"{self._launch.name}: the SGLang server did not {missing} within engine.start_timeout_s = "
                        f"{self._launch.config.start_timeout_s:.0f} s; last lines of {process.log}:\n"
                        f"{process.last_lines()}"
                    )
                await asyncio.sleep(0.25)

    async def _first_token(self, process: SupervisedProcess, http: aiohttp.ClientSession, url: str) -> str:
        """What came in its place, "" when it came: what a first request builds is built, and an engine that cannot
        generate does not come up. Raises EngineStartError for a 4xx: the same request will not do better."""
        body = {"input_ids": [0], "sampling_params": {"max_new_tokens": 1, "ignore_eos": True}}
        try:
            async with http.post(f"{url}/generate", json=body, timeout=_WARM_UP) as reply:
                if reply.status == 200:
                    return ""
                instead = f"status {reply.status}: {(await reply.text(errors='replace'))[:500]}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return repr(error)  # a process that ended is noticed by the caller
        if 400 <= reply.status < 500:
            raise EngineStartError(
                f"{self._launch.name}: the SGLang server refused {url}/generate with {instead}; "
                f"last lines of {process.log}:\n{process.last_lines()}"
            )
        return instead


async def _is_ready(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}/health") as reply:
            return reply.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False  # not listening yet


async def _freeze_garbage_collector(url: str) -> None:
    """SGLang collects garbage whenever it drops its cache, that is at each weight update: half a second on its
    start-up objects, which this takes out of the collector's sight."""
    timeout = aiohttp.ClientTimeout(total=60.0)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.post(f"{url}/freeze_gc") as reply:
            reply.raise_for_status()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EngineStartError(f"the SGLang server at {url} came up and then did not answer: {error!r}") from error


def _server_environment(hardware: Hardware, own: Mapping[str, str], *, grpc_port: int) -> dict[str, str]:
    return (
        dict(os.environ)
        | {
            # The process answers /health without a generation: a health check must not wait behind a weight update.
            "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
            # Unset, SGLang takes its port plus 10000 and stops when that is none, though it opens no gRPC at all.
            "SGLANG_GRPC_PORT": str(grpc_port),
            # The router keeps connections for later. One that the server closes first may take a request along, just
            # as it is sent: after a pause of as long as the server's patience, which a train step can well be.
            "SGLANG_TIMEOUT_KEEP_ALIVE": "3600",
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
            "PYTHONUNBUFFERED": "1",
        }
        | dict(hardware.environment)
        | dict(hardware.engine_environment)
        | dict(own)
    )


def _node_ip() -> str:
    import ray.util

    return ray.util.get_node_ip_address()
