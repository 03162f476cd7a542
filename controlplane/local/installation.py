"""All local services of one home together: up, down, and what is there."""

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from controlplane.local import api, postgres, ray
from controlplane.local.errors import LocalError
from controlplane.local.files import exclusive
from controlplane.local.parts import Part, PartState, Stage
from controlplane.local.ports import answers
from controlplane.settings import Settings

READY_TIMEOUT_S = 90.0


type Watcher = Callable[[PartState], None]


def up(settings: Settings, watch: Watcher) -> api.ApiHandle:
    """Start what does not run, tell ``watch`` of each part, and wait until jobs can run.

    Raises LocalError, after the other parts had their chance.
    """
    with exclusive(settings.home):
        if not settings.ray_address:  # another cluster's nodes may see the directory where this machine does not
            _runs_dir_up(settings.runs_dir)
        idle = not settings.ray_address and ray.find(settings) is None
        with ThreadPoolExecutor(2) as pool:
            cluster = pool.submit(_watched, Part.RAY, watch, lambda: _ray_up(settings, watch))
            service = pool.submit(_service_up, settings, watch, idle)
        process = service.result()
        cluster.result()
        _watched(Part.API, watch, lambda: _wait_ready(process))
        watch(PartState(Part.API, Stage.STARTED if process.started else Stage.RUNNING, process.url))
        return process


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


def _runs_dir_up(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"x")
    except OSError as error:
        raise LocalError(f"cannot write in ROLLWAY_RUNS_DIR={directory}: {error.strerror}") from error


def _service_up(settings: Settings, watch: Watcher, idle: bool) -> api.ApiHandle:
    """Postgres, then the API, which answers once it has migrated. ``idle``: nothing on the cluster knows its port."""
    _watched(Part.POSTGRES, watch, lambda: _database_up(settings, watch))
    watch(PartState(Part.API, Stage.STARTING))
    process = _watched(Part.API, watch, lambda: api.start(settings, may_move=idle))
    watch(PartState(Part.MIGRATIONS, Stage.RUNNING, "up to date"))
    return process


def _database_up(settings: Settings, watch: Watcher) -> None:
    if settings.database_url:
        _database_answers(settings.database_url)
        watch(PartState(Part.POSTGRES, Stage.EXTERNAL, _without_password(settings.database_url)))
        return
    watch(PartState(Part.POSTGRES, Stage.STARTING))
    server = postgres.start(settings)
    watch(PartState(Part.POSTGRES, Stage.STARTED if server.started else Stage.RUNNING, server.url))


def _database_answers(url: str) -> None:
    from controlplane.db import connect  # half a second, for those alone who bring their own
    from controlplane.errors import DatabaseUnavailable

    async def ask() -> None:
        connection = await connect(url)
        await connection.close(timeout=5.0)

    try:
        asyncio.run(ask())
    except DatabaseUnavailable as error:
        raise LocalError(f"ROLLWAY_DATABASE_URL={_without_password(url)}: {error}") from error


def _ray_up(settings: Settings, watch: Watcher) -> None:
    if settings.ray_address:
        host, _, port = settings.ray_address.rpartition(":")
        if not answers(host, int(port), timeout_s=5.0):
            raise LocalError(f"nothing answers at ROLLWAY_RAY_ADDRESS={settings.ray_address}")
        if not (token := ray.token_path(settings)).is_file():
            raise LocalError(
                f"there is no token of the cluster at ROLLWAY_RAY_ADDRESS={settings.ray_address} in {token}: "
                "set ROLLWAY_RAY_TOKEN_PATH to its file"
            )
        watch(PartState(Part.RAY, Stage.EXTERNAL, settings.ray_address))
        return
    watch(PartState(Part.RAY, Stage.STARTING))
    head = ray.start(settings)
    watch(PartState(Part.RAY, Stage.STARTED if head.started else Stage.RUNNING, head.address))


def _wait_ready(process: api.ApiHandle) -> None:
    """Until the API has the database and the cluster: jobs can run."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        ready, text = api.readiness(process.url, timeout_s=20.0)
        if ready:
            return
        if time.monotonic() > deadline:
            raise LocalError(f"the API runs at {process.url} and is not ready after {READY_TIMEOUT_S:g} s: {text}")
        time.sleep(0.1)


def _watched[T](part: Part, watch: Watcher, work: Callable[[], T]) -> T:
    try:
        return work()
    except LocalError as error:
        watch(PartState(part, Stage.FAILED, str(error).partition("\n")[0]))
        raise


def _found(part: Part, where: str | None) -> PartState:
    return PartState(part, Stage.RUNNING, where) if where else PartState(part, Stage.STOPPED)


def _without_password(url: str) -> str:
    """The password may stand before the host or among the options."""
    url = re.sub(r"(?<=[?&]password=)[^&]*", "***", url)
    parts = urlsplit(url)
    if not parts.password:
        return url
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}"))
