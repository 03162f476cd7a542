"""What polling a job costs: GET /v1/jobs/{id} under 32 pollers, beside a bare FastAPI route on the same machine.

Needs a database: ROLLWAY_DATABASE_URL, or the Postgres binaries of this machine.
"""

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import quantiles

import httpx
import uvicorn
import uvloop
from fastapi import FastAPI

from controlplane.app import create_app
from controlplane.db import migrate
from controlplane.settings import Settings
from tests.service.postgres import PostgresServer
from tests.service.scripted import API_KEY, ScriptedCluster, spec

POLLERS = 32
SECONDS = 4.0
ROUNDS = 3


@contextmanager
def database() -> Iterator[str]:
    if url := os.environ.get("ROLLWAY_DATABASE_URL"):
        yield url
        return
    server = PostgresServer()
    try:
        server.start()
        yield server.url("postgres")
    finally:
        server.remove()


def bare_app() -> FastAPI:
    app = FastAPI()

    @app.get("/v1/jobs/{job_id}")
    async def bare(job_id: str) -> dict[str, str]:
        return {"id": job_id}

    return app


def serve(database_url: str, ready: Connection) -> None:
    """Both applications, one process, one loop; only one is asked at a time."""
    uvloop.run(_serve(database_url, ready))


async def _serve(database_url: str, ready: Connection) -> None:
    home = Path(tempfile.gettempdir()) / "rollway-bench"  # named, never written: the cluster is scripted
    settings = Settings(home, None, None, None, "127.0.0.1", 0, None, home / "runs")
    api = create_app(
        settings, database_url=database_url, api_key=API_KEY, cluster=ScriptedCluster(), public_url="http://127.0.0.1"
    )
    servers = [
        uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False))
        for app in (api, bare_app())
    ]
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    while not all(server.started for server in servers):  # noqa: ASYNC110 (uvicorn offers nothing to wait for)
        await asyncio.sleep(0.01)
    ready.send([server.servers[0].sockets[0].getsockname()[1] for server in servers])
    await asyncio.gather(*tasks)


async def poll(port: int, path: str, headers: dict[str, str], latencies: list[float], until: float) -> None:
    """One poller: a connection that is kept, a request as soon as the last was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET {path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    request = "\r\n".join(lines).encode()
    while (begun := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        assert status in (200, 304), head
        if status == 200:
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
        latencies.append(time.perf_counter() - begun)
    writer.close()


async def measure(port: int, path: str, headers: dict[str, str]) -> tuple[float, float, float]:
    """Requests per second, and the 50th and 99th percentile of the latency in ms."""
    latencies: list[float] = []
    until = time.perf_counter() + SECONDS
    await asyncio.gather(*(poll(port, path, headers, latencies, until) for _ in range(POLLERS)))
    cuts = quantiles(latencies, n=100)
    return len(latencies) / SECONDS, cuts[49] * 1e3, cuts[98] * 1e3


async def bench(api_port: int, bare_port: int) -> None:
    key = {"Authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api_port}", headers=key) as client:
        job_id = (await client.post("/v1/jobs", json=spec(name="polled"))).json()["id"]
        state = ""
        while state != "starting":  # the last change that nobody reports
            job = await client.get(f"/v1/jobs/{job_id}")
            state = job.json()["state"]
            await asyncio.sleep(0.1)
        await asyncio.sleep(2.5)
        job = await client.get(f"/v1/jobs/{job_id}")
        etag = job.headers["etag"]
    path = f"/v1/jobs/{job_id}"
    cases = {
        "bare FastAPI route": (bare_port, {}),
        f"GET job ({len(job.content)} bytes)": (api_port, key),
        "GET job, If-None-Match": (api_port, key | {"If-None-Match": etag}),
    }
    best: dict[str, tuple[float, float, float]] = {}
    for _ in range(ROUNDS):  # in turn, so that a noisy moment of the machine hits all alike
        for name, (port, headers) in cases.items():
            figures = await measure(port, path, headers)
            best[name] = max(best.get(name, figures), figures)
    bare = best["bare FastAPI route"][0]
    print(f"{POLLERS} pollers, best of {ROUNDS} × {SECONDS:g} s, {os.cpu_count()} cores")
    for name, (rate, p50, p99) in best.items():
        print(f"{name:28} {rate:7.0f} /s   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   {rate / bare:5.2f} of bare")


def main() -> None:
    with database() as url:
        migrate(url)
        here, there = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(url, there), daemon=True)
        server.start()
        try:
            if not here.poll(60):
                raise SystemExit("the servers did not start within 60 s")
            asyncio.run(bench(*here.recv()))
        finally:
            server.terminate()
            server.join(20)


if __name__ == "__main__":
    main()
