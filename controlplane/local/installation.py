"""All local services of one home together: up, down, and what is there."""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

from controlplane.local import api, postgres, ray
from controlplane.local.errors import LocalError
from controlplane.local.files import exclusive
from controlplane.local.parts import Part, PartState, Stage
from controlplane.settings import Settings

READY_TIMEOUT_S = 90.0


type Watcher = Callable[[PartState], None]


def up(settings: Settings, watch: Watcher) -> api.ApiHandle:
    """Start what does not run, tell ``watch`` of each part, and wait until jobs can run.

    Raises LocalError, after the other parts had their chance.
    """
    with exclusive(settings.home):
        with ThreadPoolExecutor(2) as pool:
            database = pool.submit(_watched, Part.POSTGRES, watch, lambda: _database_up(settings, watch))
            cluster = pool.submit(_watched, Part.RAY, watch, lambda: _ray_up(settings, watch))
        database.result()
        fresh_cluster = cluster.result()
        return _watched(Part.API, watch, lambda: _api_up(settings, watch, fresh_cluster))


def down(settings: Settings, watch: Watcher) -> None:
    """End every local service, with the jobs that run on them, and nothing else."""

    def stop(part: Part, stopped: bool) -> None:
        watch(PartState(part, Stage.STOPPED, "" if stopped else "was not running"))

    with exclusive(settings.home):
        _watched(Part.API, watch, lambda: stop(Part.API, api.stop(settings)))
        with ThreadPoolExecutor(2) as pool:
            ends = [
                pool.submit(_watched, Part.RAY, watch, lambda: stop(Part.RAY, ray.stop(settings))),
                pool.submit(_watched, Part.POSTGRES, watch, lambda: stop(Part.POSTGRES, postgres.stop(settings))),
            ]
        for end in ends:
            end.result()


def remove(settings: Settings) -> None:
    """Delete what this home keeps: jobs, checkpoints and logs. Everything must be down."""
    with exclusive(settings.home):
        for part in status(settings):
            if part.stage in (Stage.RUNNING, Stage.UNREADY):
                raise LocalError(f"{part.part} runs: `rollway down` first")
        postgres.remove(settings)
        shutil.rmtree(settings.home)


def status(settings: Settings) -> list[PartState]:
    if settings.database_url:
        database = PartState(Part.POSTGRES, Stage.EXTERNAL, _without_password(settings.database_url))
    else:
        server = postgres.find(settings)
        database = _found(Part.POSTGRES, server and server.url)
    if settings.ray_address:
        cluster = PartState(Part.RAY, Stage.EXTERNAL, settings.ray_address)
    else:
        head = ray.find(settings)
        cluster = _found(Part.RAY, head and head.address)
    process = api.find(settings)
    if process is None:
        return [database, cluster, PartState(Part.API, Stage.STOPPED)]
    ready, text = api.readiness(process.url, timeout_s=10.0)
    stage = Stage.RUNNING if ready else Stage.UNREADY
    return [database, cluster, PartState(Part.API, stage, f"{process.url} ({text})" if text else process.url)]


def _database_up(settings: Settings, watch: Watcher) -> None:
    # SQLAlchemy and Alembic take half a second to import, which Postgres uses to start.
    if settings.database_url:
        url, where, stage = settings.database_url, _without_password(settings.database_url), Stage.EXTERNAL
    else:
        watch(PartState(Part.POSTGRES, Stage.STARTING))
        server = postgres.start(settings)
        url, where, stage = server.url, server.url, Stage.STARTED if server.started else Stage.RUNNING
    watch(PartState(Part.POSTGRES, stage, where))
    _watched(Part.MIGRATIONS, watch, lambda: _migrate(url, watch))


def _migrate(url: str, watch: Watcher) -> None:
    from controlplane.db import migrate
    from controlplane.errors import DatabaseUnavailable

    watch(PartState(Part.MIGRATIONS, Stage.STARTING))
    try:
        migrate(url)
    except (DatabaseUnavailable, ValueError) as error:
        raise LocalError(f"the database cannot be brought up to date: {error}") from error
    watch(PartState(Part.MIGRATIONS, Stage.RUNNING, "up to date"))


def _ray_up(settings: Settings, watch: Watcher) -> bool:
    """True when the cluster is new, so that nothing runs on it."""
    if settings.ray_address:
        watch(PartState(Part.RAY, Stage.EXTERNAL, settings.ray_address))
        return False
    watch(PartState(Part.RAY, Stage.STARTING))
    head = ray.start(settings)
    watch(PartState(Part.RAY, Stage.STARTED if head.started else Stage.RUNNING, head.address))
    return head.started


def _api_up(settings: Settings, watch: Watcher, fresh_cluster: bool) -> api.ApiHandle:
    watch(PartState(Part.API, Stage.STARTING))
    process = api.start(settings, may_move=fresh_cluster)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        ready, text = api.readiness(process.url, timeout_s=20.0)
        if ready:
            break
        if time.monotonic() > deadline:
            raise LocalError(f"the API runs at {process.url} and is not ready after {READY_TIMEOUT_S:g} s: {text}")
        time.sleep(0.1)
    watch(PartState(Part.API, Stage.STARTED if process.started else Stage.RUNNING, process.url))
    return process


def _watched[T](part: Part, watch: Watcher, work: Callable[[], T]) -> T:
    try:
        return work()
    except LocalError as error:
        watch(PartState(part, Stage.FAILED, str(error).partition("\n")[0]))
        raise


def _found(part: Part, where: str | None) -> PartState:
    return PartState(part, Stage.RUNNING, where) if where else PartState(part, Stage.STOPPED)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if not parts.password:
        return url
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}"))
