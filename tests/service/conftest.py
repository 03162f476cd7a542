import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from controlplane.app import create_app
from controlplane.db import connect, migrate
from controlplane.reconcile.decide import Timing
from controlplane.settings import Settings
from tests.service.postgres import PostgresServer
from tests.service.scripted import API_KEY, Api, ScriptedCluster

PUBLIC_URL = "http://api.test"
REPORT_URL = "http://drivers.test"
# As in production, only sooner.
QUICK = Timing(
    tick_s=0.05,
    running_interval_s=0.05,
    lease_s=3.0,
    cancel_grace_s=30.0,
    retry_delay_s=0.05,
    outage_delay_s=0.1,
)

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
async def template(postgres: PostgresServer) -> str:
    await _sql(postgres, "CREATE DATABASE template_rollway")
    await asyncio.to_thread(migrate, postgres.url("template_rollway"))
    return "template_rollway"


@pytest.fixture
async def database_url(postgres: PostgresServer, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    await _sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.url(name)
    await _sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


async def _sql(postgres: PostgresServer, statement: str) -> None:
    connection: Any = await connect(postgres.url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        database_url=None,
        ray_address=None,
        ray_token_path=None,
        host="127.0.0.1",
        port=0,
        public_url=PUBLIC_URL,
        runs_dir=tmp_path / "runs",
    )


@asynccontextmanager
async def serving(app: FastAPI, cluster: ScriptedCluster) -> AsyncIterator[Api]:
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {API_KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL, headers=headers) as client:
            yield Api(client, cluster)


type StartApi = Callable[..., Awaitable[Api]]


@pytest.fixture
async def start_api(database_url: str, settings: Settings) -> AsyncIterator[StartApi]:
    """Starts control planes on the test's database: ``await start_api(cluster, cancel_grace_s=0.1)``."""
    from dataclasses import replace

    async with AsyncExitStack() as stack:

        async def start(cluster: ScriptedCluster | None = None, **timing: float) -> Api:
            cluster = cluster or ScriptedCluster()
            app = create_app(
                settings,
                database_url=database_url,
                api_key=API_KEY,
                cluster=cluster,
                public_url=PUBLIC_URL,
                report_url=REPORT_URL,
                timing=replace(QUICK, **timing),
            )
            return await stack.enter_async_context(serving(app, cluster))

        yield start


@pytest.fixture
async def api(start_api: StartApi) -> Api:
    return await start_api()
