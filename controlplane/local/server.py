"""The API as a process: ``python -m controlplane.local.server``. It brings the database up to date, then serves."""

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from controlplane.cluster.ray import RayCluster
from controlplane.local import api, postgres, ray
from controlplane.local.errors import LocalError
from controlplane.local.files import secret
from controlplane.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

DRAIN_S = 5


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        uvloop.run(_serve(Settings.from_environment()))
    except (LocalError, ValueError) as error:
        sys.exit(str(error))


async def _serve(settings: Settings) -> None:
    if settings.port == 0:
        raise LocalError("ROLLWAY_PORT must say which port to serve at")
    cluster = RayCluster(lambda: ray.address(settings), token_path=ray.token_path(settings))
    cluster.connect()
    try:
        url = database_url(settings)
        # In a thread, so that the connection to Ray comes up at the same time.
        create_app = await asyncio.to_thread(_migrated, url)
        app = create_app(
            settings,
            database_url=url,
            api_key=secret(settings.api_key_path),
            cluster=cluster,
            public_url=api.public_url(settings, settings.port),
            report_url=api.report_url(settings, settings.port),
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )
        await server.serve()
    finally:
        await cluster.close()


def _migrated(url: str) -> "Callable[..., FastAPI]":
    """The application's factory, once the database is as it needs it. Two seconds of imports."""
    from controlplane.app import create_app
    from controlplane.db import migrate
    from controlplane.errors import DatabaseUnavailable

    try:
        migrate(url)
    except DatabaseUnavailable as error:
        raise LocalError(f"the database cannot be brought up to date: {error}") from error
    return create_app


def database_url(settings: Settings) -> str:
    if settings.database_url:
        return settings.database_url
    found = postgres.find(settings)
    if found is None:
        raise LocalError("the embedded Postgres is not running: run `rollway up`, or set ROLLWAY_DATABASE_URL")
    return found.url


if __name__ == "__main__":
    main()
