"""The local Ray cluster: one head per home, on loopback, with a token of its own."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from controlplane.local import processes
from controlplane.local.errors import LocalError
from controlplane.local.files import (
    log_path,
    log_tail,
    make_private,
    make_short_directory,
    open_log,
    read_json,
    remove_short_directory,
    secret,
    short_directory,
    write_json,
)
from controlplane.local.ports import answers, free_ports
from controlplane.local.processes import ProcessId, identify
from controlplane.settings import Settings

START_TIMEOUT_S = 120.0
# Ray puts the machine's outward address in the place of 127.0.0.1; any other loopback address it takes as it is.
# A cluster at this one does not notice when the machine changes networks.
_IP = "127.0.0.2"
_GUARD_GRACE_S = 2.0
_MARK = "ROLLWAY_RAY_DIRECTORY"
# Settings of the caller's that would lead the cluster's processes to another cluster or another token.
_FOREIGN = ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR", "ROLLWAY_API_KEY")
_PORTS = (
    "gcs_server_port",
    "node_manager_port",
    "object_manager_port",
    "dashboard_agent_listen_port",
    "metrics_agent_port",
    "runtime_env_agent_port",
    "metrics_export_port",
)


@dataclass(frozen=True, slots=True)
class RayHandle:
    address: str
    pid: int
    started: bool
    """False: it was running already."""


def token_path(settings: Settings) -> Path:
    return settings.ray_token_path or settings.home / "ray" / "token"


def address(settings: Settings) -> str | None:
    """Where the cluster is now; None while none runs."""
    if settings.ray_address:
        return settings.ray_address
    found = find(settings)
    return found.address if found else None


def find(settings: Settings) -> RayHandle | None:
    known = read_json(_record(settings.home))
    if known is None or not ProcessId(known["pid"], known["started"]).alive:
        return None
    return RayHandle(known["address"], known["pid"], started=False)


def start(settings: Settings, *, timeout_s: float = START_TIMEOUT_S) -> RayHandle:
    """Start this home's cluster, or find it running; what a crash left of it is ended first.

    Raises LocalError: not up within ``timeout_s``, with what it said last.
    """
    found = find(settings)
    if found:
        host, _, port = found.address.rpartition(":")
        if answers(host, int(port), timeout_s=5.0):
            return found
    stop(settings)
    secret(token_path(settings))
    try:
        return _launch(settings, timeout_s)
    except _Ended:
        # Its ports are free when they are chosen and not yet taken, a race with other programs: run once more.
        return _launch(settings, timeout_s)


def stop(settings: Settings) -> bool:
    """End the cluster with everything that runs on it, and nothing of any other. False: there was nothing to end."""
    known = read_json(_record(settings.home))
    guard = ProcessId(known["pid"], known["started"]) if known else None
    directory = _directory(settings.home)
    ran = guard is not None and guard.alive
    if guard is not None and ran:
        processes.end([guard], what="Ray", grace_s=_GUARD_GRACE_S + 15.0)
    # What outlives the guard (it was killed, say) bears our directory's name.
    deadline = time.monotonic() + 20.0
    while left := processes.find(lambda pid: _belongs(pid, directory)):
        ran = True
        processes.end(left, what="a process of Ray", grace_s=2.0)
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in left)
            raise LocalError(f"processes of Ray keep coming back (now {pids}): end them and try again")
    _record(settings.home).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    remove_short_directory(settings.home)
    return ran


class _Ended(LocalError):
    """While it started."""


def _launch(settings: Settings, timeout_s: float) -> RayHandle:
    home = settings.home
    directory = _directory(home)
    make_short_directory(home)
    make_private(directory)
    ready = directory / "ready.json"
    config = {
        "ip": _IP,
        "directory": str(directory / "t"),
        "ready": str(ready),
        # Slots, not cores: on a machine without GPUs every rank and engine takes one, and a job must fit on a laptop.
        "num_cpus": max(8, 2 * (os.cpu_count() or 1)),
        "object_store_memory": _object_store_bytes(),
        "ports": dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True)),
    }
    log = open_log(home, "ray")
    since = os.fstat(log).st_size
    head = [sys.executable, "-m", "controlplane.cluster.ray_head", json.dumps(config)]
    # The guard ends the cluster when its stdin closes. It holds the other end itself: only a signal ends it.
    stdin, held = os.pipe()
    try:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", _guard(), str(_GUARD_GRACE_S), *head],
            stdin=stdin,
            stdout=log,
            stderr=log,
            pass_fds=(held,),
            start_new_session=True,
            cwd=home,
            env=_environment(settings, directory),
        )
    except OSError as error:
        raise LocalError(f"cannot start Ray: {error.strerror}") from error
    finally:
        for descriptor in (log, stdin, held):
            os.close(descriptor)
    process = identify(guard.pid)
    deadline = time.monotonic() + timeout_s
    while process is not None and process.alive:
        if found := read_json(ready):
            write_json(_record(home), {"address": found["address"], "pid": process.pid, "started": process.started})
            return RayHandle(found["address"], process.pid, started=True)
        if time.monotonic() > deadline:
            processes.end([process], what="Ray", grace_s=_GUARD_GRACE_S + 15.0)
            raise LocalError(
                f"Ray was not up within {timeout_s:g} s; {log_path(home, 'ray')}:\n{log_tail(home, 'ray', since=since)}"
            )
        time.sleep(0.05)
    last = log_tail(home, "ray", since=since)
    shutil.rmtree(directory, ignore_errors=True)
    raise _Ended(f"Ray ended while it started; {log_path(home, 'ray')}:\n{last}")


def _belongs(pid: int, directory: Path) -> bool:
    """Ray's servers have the directory in an option, the workers in their environment; the agents overwrite both with
    a title, and log there. Someone who reads a log in there is none of these."""
    arguments = processes.command_line(pid)
    return (
        any(part.startswith("--") and f"={directory}/" in part for part in arguments)
        or processes.has_variable(pid, _MARK, str(directory))
        or (arguments[0].startswith("ray::") and processes.holds_open(pid, directory))
    )


def _record(home: Path) -> Path:
    return home / "ray" / "head.json"


def _directory(home: Path) -> Path:
    return short_directory(home) / "ray"


def _guard() -> str:
    """The path of the guard's file: it is run as a script, without this environment's start-up."""
    spec = importlib.util.find_spec("engines.guard")
    if spec is None or spec.origin is None:
        raise LocalError("the installation is incomplete: engines/guard.py is missing")
    return spec.origin


def _environment(settings: Settings, directory: Path) -> dict[str, str]:
    """What every process of the cluster inherits, the jobs' too."""
    return {name: value for name, value in os.environ.items() if name not in _FOREIGN} | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(settings)),
        # An actor without GPUs of its own still sees those of the machine: the engines choose by themselves.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        _MARK: str(directory),
    }


def _object_store_bytes() -> int:
    """Rollouts pass through it, weights do not. Bounded: Ray's default is 30% of the memory."""
    shared_memory = shutil.disk_usage("/dev/shm")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(80 << 20, min(2 << 30, memory // 16, shared_memory.free // 2))
