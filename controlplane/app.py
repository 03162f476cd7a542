"""The API: its parts, how they are wired, and its life."""

import asyncio
import functools
import gc
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from controlplane import failures
from controlplane.auth import API_KEY_SCHEME, ApiKeyGate, AttemptTokens
from controlplane.bodies import BodyLimit
from controlplane.checkpoints.endpoints import checkpoints_router
from controlplane.cluster.base import Cluster, ClusterUnavailable
from controlplane.db import Database
from controlplane.errors import DatabaseUnavailable, FieldError
from controlplane.evaluations.endpoints import evaluations_router
from controlplane.events.endpoints import events_router
from controlplane.jobs.changes import Changes
from controlplane.jobs.endpoints import jobs_router, reports_router
from controlplane.jobs.flags.manifests import Manifests, manifests_directory
from controlplane.jobs.ingest import Ingest
from controlplane.jobs.proxy import Upstream, proxy_router
from controlplane.jobs.schemas import ErrorView
from controlplane.jobs.service import JobService
from controlplane.jobs.snapshots import JobSnapshots
from controlplane.metrics.endpoints import metrics_router
from controlplane.reconcile.decide import Timing
from controlplane.reconcile.jobs import JobReconciler
from controlplane.reconcile.loop import Reconciler
from controlplane.settings import Settings

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 5.0

_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorView, "description": text}
    for code, text in {401: "Who is calling?", 404: "No such thing.", 409: "Not in this state.", 422: "Wrong."}.items()
}


def create_app(
    settings: Settings,
    *,
    database_url: str,
    api_key: str,
    cluster: Cluster,
    public_url: str,
    report_url: str | None = None,
    timing: Timing | None = None,
) -> FastAPI:
    """The application. The database must be migrated; ``cluster`` stays the caller's, who closes it.

    ``public_url`` is where users reach this API, ``report_url`` where drivers do; unset, the same.
    """
    timing = timing or Timing()
    database = Database(database_url)
    changes = Changes()
    upstream = Upstream()
    snapshots = JobSnapshots(database, public_url)
    reconciler = Reconciler(
        database=database,
        reconciler=JobReconciler(
            database=database,
            cluster=cluster,
            tokens=AttemptTokens(database),
            runs_dir=settings.runs_dir,
            api_url=report_url or public_url,
            timing=timing,
        ),
        wake=changes.due,
        timing=timing,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        _spare_the_collector()
        reconciler.start()
        try:
            yield
        finally:
            await reconciler.drain()
            await upstream.close()
            await snapshots.close()
            await database.close()

    app = FastAPI(
        title="Rollway",
        version=version("rollway"),
        description="Reinforcement-learning post-training of language models.",
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
    )
    failures.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(ApiKeyGate, api_key=api_key)
    with_key: dict[str, Any] = {"responses": _ERRORS}
    manifests = Manifests.load(manifests_directory(settings.home))
    app.include_router(jobs_router(database, JobService(database, changes), snapshots, manifests), **with_key)
    app.include_router(events_router(database, changes), **with_key)
    app.include_router(metrics_router(database), **with_key)
    app.include_router(evaluations_router(database), **with_key)
    app.include_router(checkpoints_router(database), **with_key)
    app.include_router(proxy_router(database, upstream), **with_key)
    app.include_router(reports_router(Ingest(database, changes)), responses=_ERRORS)
    _add_health(app, database, cluster)
    _document_api_key(app)
    return app


@functools.cache  # once a process
def _spare_the_collector() -> None:
    """What was imported stays for good: without this, every full garbage collection walks all of it, and every
    request in flight waits 0.1 s for that about twice a second under load."""
    gc.collect()
    gc.freeze()


def _operation_id(route: APIRoute) -> str:
    return route.name


def _document_api_key(app: FastAPI) -> None:
    """The gate stands before the routes, where FastAPI does not see it."""
    document = app.openapi()
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes[API_KEY_SCHEME] = {"type": "http", "scheme": "bearer", "description": "The installation's API key."}
    for path, operations in document["paths"].items():
        if ApiKeyGate.guards(path):
            for operation in operations.values():
                operation["security"] = [{API_KEY_SCHEME: []}]


def _add_health(app: FastAPI, database: Database, cluster: Cluster) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Answers whenever this process does."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"model": ErrorView, "description": "Something is away."}})
    async def readyz() -> JSONResponse:
        """Whether jobs can be taken and run: the database and the cluster answer."""
        problems: list[FieldError] = []
        nodes = ""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await database.ping()
        except (DatabaseUnavailable, TimeoutError) as error:
            problems.append(FieldError("database", str(error) or f"no answer within {READY_TIMEOUT_S:g} s"))
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                nodes = await cluster.describe()
        except (ClusterUnavailable, TimeoutError) as error:
            problems.append(FieldError("cluster", str(error) or f"no answer within {READY_TIMEOUT_S:g} s"))
        if problems:
            away = " and ".join(problem.path for problem in problems)
            return failures.answer(503, "not_ready", f"not ready: {away}", tuple(problems))
        return JSONResponse({"status": "ready", "database": "ok", "cluster": nodes})
