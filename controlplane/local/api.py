"""The API's process: one per home, always at the same URL, for running drivers report to it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from controlplane.hosts import is_loopback
from controlplane.local import processes
from controlplane.local.errors import LocalError
from controlplane.local.files import log_path, log_tail, open_log, read_json, secret, write_json
from controlplane.local.ports import free_ports, obstacle
from controlplane.local.processes import ProcessId, identify
from controlplane.settings import Settings

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ApiHandle:
    url: str
    pid: int
    started: bool
    """False: it was running already."""


def endpoint_path(home: Path) -> Path:
    """What clients on this machine read: ``{"url", "pid", …}``; kept while the API is down, so that it comes back at
    the same place."""
    return home / "endpoint.json"


def find(settings: Settings) -> ApiHandle | None:
    known = read_json(endpoint_path(settings.home))
    if known is None or not ProcessId(known["pid"], known["started"]).alive:
        return None
    return ApiHandle(known["url"], known["pid"], started=False)


def start(settings: Settings, *, may_move: bool, timeout_s: float = START_TIMEOUT_S) -> ApiHandle:
    """Start the API, or find it running. The database must be up; the API migrates it before it answers.

    ``may_move``: nothing on the cluster reports to the port used last, so that another will do when it is taken.
    Raises LocalError: a port in use, no address for drivers, or no answer within ``timeout_s``.
    """
    report_url(settings, 1)
    if why := obstacle(settings.host, 0):
        raise LocalError(f"ROLLWAY_HOST={settings.host} is no address that this machine can listen at: {why}")
    found = find(settings)
    if found and _same_settings(settings):
        _wait_healthy(settings, ProcessId(found.pid, _started(settings)), found.url, since=None, timeout_s=timeout_s)
        return found
    port = _port(settings, may_move, running=found is not None)
    stop(settings)
    url = f"http://{f'[{_client_host(settings)}]' if ':' in settings.host else _client_host(settings)}:{port}"
    secret(settings.api_key_path)
    log = open_log(settings.home, "api")
    since = os.fstat(log).st_size
    try:
        server = subprocess.Popen(
            [sys.executable, "-m", "controlplane.local.server"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=settings.home,
            env=_environment(settings, port),
        )
    except OSError as error:
        raise LocalError(f"cannot start the API: {error.strerror}") from error
    finally:
        os.close(log)
    process = identify(server.pid)
    if process is None:
        raise LocalError(f"the API ended at once:\n{log_tail(settings.home, 'api', since=since)}")
    # Before it answers: should this command be killed meanwhile, the next one finds the process.
    record = {"url": url, "port": port, "pid": process.pid, "started": process.started, "chosen": _chosen(settings)}
    write_json(endpoint_path(settings.home), record)
    _wait_healthy(settings, process, url, since=since, timeout_s=timeout_s)
    return ApiHandle(url, process.pid, started=True)


def stop(settings: Settings) -> bool:
    """End the API; requests in hand are answered first. False: it was not running."""
    found = find(settings)
    if found is None:
        return False
    process = ProcessId(found.pid, _started(settings))
    processes.end([process], what="the API", signum=signal.SIGTERM, grace_s=STOP_TIMEOUT_S)
    return True


def readiness(url: str, *, timeout_s: float) -> tuple[bool, str]:
    """What ``/readyz`` says: whether jobs can run, and the cluster's line or what is missing."""
    try:
        status, body = _get(f"{url}/readyz", timeout_s=timeout_s)
    except (OSError, ValueError) as error:
        return False, f"the API does not answer: {error or type(error).__name__}"
    if status == 200:
        return True, str(body.get("cluster", ""))
    fields = body.get("error", {}).get("fields", [])
    return False, "; ".join(f"{field['path']}: {field['message']}" for field in fields) or str(body)


def _get(url: str, *, timeout_s: float) -> tuple[int, dict[str, Any]]:
    """Status and JSON. Not through a proxy of the environment, and without what an HTTP library takes to load."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as reply:
            return reply.status, cast("dict[str, Any]", json.load(reply))
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, cast("dict[str, Any]", json.load(refusal))


def public_url(settings: Settings, port: int) -> str:
    """Where users reach the API. Raises LocalError when the address it listens at does not say."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    if settings.host in ("0.0.0.0", "::"):
        raise LocalError(f"ROLLWAY_HOST={settings.host} needs ROLLWAY_PUBLIC_URL: how users and drivers reach it")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}"


def report_url(settings: Settings, port: int) -> str:
    """Where drivers reach the API. Raises LocalError when those on other machines would find themselves there."""
    public = public_url(settings, port)
    url = settings.report_url.rstrip("/") if settings.report_url else public
    host = urlsplit(url).hostname or ""
    cluster = (settings.ray_address or "").rpartition(":")[0]
    if cluster and is_loopback(host) and not is_loopback(cluster):
        raise LocalError(
            f"the cluster at ROLLWAY_RAY_ADDRESS={settings.ray_address} is told to report to {host}, which every node "
            "takes for itself: set ROLLWAY_HOST to an address of this machine that the nodes reach, or "
            "ROLLWAY_PUBLIC_URL or ROLLWAY_REPORT_URL to a URL that they reach; a cluster on this machine alone can "
            "be named by 127.0.0.1"
        )
    return url


def _started(settings: Settings) -> int:
    known = read_json(endpoint_path(settings.home))
    return int(known["started"]) if known else -1


def _port(settings: Settings, may_move: bool, *, running: bool) -> int:
    """``running``: the API itself is at the port used last, and will be ended: not before another is known to do."""
    known = read_json(endpoint_path(settings.home))
    last = int(known["port"]) if known else 0
    port = settings.port or last
    why = None if running and port == last else obstacle(settings.host, port)
    if port and not why:
        return port
    if settings.port:
        raise LocalError(f"port {port} of {settings.host}: {why}; end that, or set ROLLWAY_PORT to a free one")
    if last and not may_move:
        raise LocalError(
            f"port {last} of {settings.host}, to which running jobs report: {why}; "
            "end that, or end the jobs with `rollway down`"
        )
    return free_ports(1, settings.host)[0]


def _client_host(settings: Settings) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)


def _wait_healthy(settings: Settings, process: ProcessId, url: str, *, since: int | None, timeout_s: float) -> None:
    log = log_path(settings.home, "api")

    def said() -> str:
        return f"{log}:\n{log_tail(settings.home, 'api', since=since)}" if since is not None else f"see {log}"

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not process.alive:
            raise LocalError(f"the API ended while it started; {said()}")
        try:
            if _get(f"{url}/healthz", timeout_s=5.0)[0] == 200:
                return
        except (OSError, ValueError):
            pass  # not listening yet
        time.sleep(0.05)
    raise LocalError(f"the API did not answer at {url} within {timeout_s:g} s; {said()}")


def _environment(settings: Settings, port: int) -> dict[str, str]:
    """The settings as they are now, whole: the process does not depend on what else its environment says."""
    cleaned = {key: value for key, value in os.environ.items() if not key.startswith("ROLLWAY_")}
    chosen = _chosen(settings) | {"ROLLWAY_HOME": str(settings.home), "ROLLWAY_PORT": str(port)}
    return cleaned | {key: value for key, value in chosen.items() if value}


def _chosen(settings: Settings) -> dict[str, str]:
    """What the environment says; an API that was started with anything else is started anew."""
    return {
        "ROLLWAY_DATABASE_URL": settings.database_url or "",
        "ROLLWAY_RAY_ADDRESS": settings.ray_address or "",
        "ROLLWAY_RAY_TOKEN_PATH": str(settings.ray_token_path or ""),
        "ROLLWAY_HOST": settings.host,
        "ROLLWAY_PORT": str(settings.port or ""),
        "ROLLWAY_PUBLIC_URL": settings.public_url or "",
        "ROLLWAY_REPORT_URL": settings.report_url or "",
        "ROLLWAY_RUNS_DIR": str(settings.runs_dir),
    }


def _same_settings(settings: Settings) -> bool:
    known = read_json(endpoint_path(settings.home))
    return known is not None and known.get("chosen") == _chosen(settings)
