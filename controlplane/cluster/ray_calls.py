"""The process that talks to Ray for the API: one JSON request a line in, one JSON answer a line out.

It lives as long as its stdin. The control plane imports Ray here and in ``ray_head.py`` alone.
"""
# pyright: standard, reportArgumentType=false, reportAttributeAccessIssue=false
# Ray's interface is untyped in parts, and wrong in others.

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

import ray
from ray._private import state as gcs  # what Ray knows of actors that are dead, and why
from ray.core.generated.gcs_pb2 import ActorTableData
from ray.exceptions import RayError
from ray.util.placement_group import get_placement_group, placement_group_table, remove_placement_group

from controlplane.cluster.base import DriverStatus

log = logging.getLogger(__name__)

NAMESPACE = "rollway"
THREADS = 8
RELEASE_WAIT_S = 2.0
# A driver asks for no CPU, so Ray would put it on any node, also on one that only lets the API speak to the cluster and
# goes when the API is restarted. Such a node says so with `ray start --labels=rollway-driver=no`; any other will do.
NODES_FOR_DRIVERS = {"rollway-driver": "!no"}
_PR_SET_PDEATHSIG = 1

_STATUS = {
    ActorTableData.DEPENDENCIES_UNREADY: DriverStatus.PENDING,
    ActorTableData.PENDING_CREATION: DriverStatus.PENDING,
    ActorTableData.RESTARTING: DriverStatus.PENDING,
    ActorTableData.ALIVE: DriverStatus.ALIVE,
    ActorTableData.DEAD: DriverStatus.DEAD,
}


class DriverActor:
    """The driver in its own process. It begins by itself, so that nobody need live long enough to tell it to, and its
    process ends with the run."""

    def __init__(self, launch: dict[str, Any]) -> None:
        from trainers.driver import Driver  # an import that fails is then the actor's cause of death

        driver = Driver(launch)
        threading.Thread(target=self._run, args=(driver,), name="driver", daemon=True).start()

    def _run(self, driver: Any) -> None:
        import asyncio

        code = 1
        try:
            asyncio.run(driver.run())
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def start_driver(name: str, launch: dict[str, Any], env_vars: dict[str, str]) -> None:
    options: dict[str, Any] = {"runtime_env": {"env_vars": env_vars}} if env_vars else {}
    options |= {"num_cpus": launch["num_cpus"], "max_restarts": 0, "label_selector": NODES_FOR_DRIVERS}
    actor: Any = ray.remote(DriverActor)
    actor.options(name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, **options).remote(launch)


def observe(name: str) -> dict[str, str]:
    found = _latest(name, _actors())
    if found is None:
        return {"status": DriverStatus.ABSENT, "detail": ""}
    status = _STATUS[found.state]
    detail = ""
    if status is DriverStatus.PENDING:
        detail = "Ray has not started its process yet"
    elif status is DriverStatus.DEAD:
        detail = _death(found)
    return {"status": status, "detail": detail}


def release(name: str) -> bool:
    """Kill the driver, which takes along the actors that it owns, and remove its placement group."""
    with contextlib.suppress(ValueError):  # no such actor (any more)
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
    with contextlib.suppress(ValueError):  # no such group (any more)
        remove_placement_group(get_placement_group(name))
    deadline = time.monotonic() + RELEASE_WAIT_S
    while not (gone := _is_gone(name)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return gone


def describe() -> str:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{free.get(kind, 0):g} of {total[kind]:g} {kind} free" for kind in ("CPU", "GPU") if kind in total]
    return ", ".join([f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}", *parts])


def _actors() -> list[Any]:
    """All that the cluster has had, dead ones included."""
    accessor: Any = gcs.state._connect_and_get_accessor()
    return [ActorTableData.FromString(each) for each in accessor.get_actor_table(None, None)]


def _latest(name: str, actors: list[Any]) -> Any:
    """The actor of that name that was made last; None where there was none."""
    return max((each for each in actors if each.name == name), key=lambda each: each.timestamp, default=None)


def _is_gone(name: str) -> bool:
    """Whether the processes of the driver and of the actors that it owned have ended, and their places are free. Ray
    calls an actor dead when it has decided to kill it."""
    actors = _actors()
    if (driver := _latest(name, actors)) is not None:
        worker = driver.address.worker_id
        owned = [each for each in actors if worker and each.owner_address.worker_id == worker]
        nodes, processes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}, gcs.workers()
        for each in (driver, *owned):
            if each.state != ActorTableData.DEAD:
                return False
            if each.address.node_id.hex() in nodes and each.address.worker_id.hex() in processes:
                return False
    groups: dict[str, Any] = placement_group_table()
    return all(group["state"] == "REMOVED" for group in groups.values() if group["name"] == name)


def _death(actor: Any) -> str:
    """The last words of Ray's account, on one line; the account of a failed constructor ends with the error."""
    cause = actor.death_cause
    kind = cause.WhichOneof("context")
    if kind == "creation_task_failure_context":
        text = cause.creation_task_failure_context.formatted_exception_string
        return text.strip().splitlines()[-1] if text.strip() else "its constructor failed"
    if kind == "actor_died_error_context":
        return " ".join(cause.actor_died_error_context.error_message.split())
    if kind == "oom_context":
        return " ".join(cause.oom_context.error_message.split())
    if kind == "runtime_env_failed_context":
        return " ".join(cause.runtime_env_failed_context.error_message.split())
    return str(kind or "")


OPERATIONS: dict[str, Callable[..., Any]] = {
    "start_driver": start_driver,
    "observe": observe,
    "release": release,
    "describe": describe,
}


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Ray writes to stdout as it likes; the answers keep the real one for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        ray.init(
            address=sys.argv[1],
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
        )
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        _write(answers, {"error": " ".join(str(error).split()) or type(error).__name__})
        sys.exit(1)
    _write(answers, {"connected": sys.argv[1]})
    writing = threading.Lock()

    def work(request: dict[str, Any]) -> None:
        try:
            reply = {"result": OPERATIONS[request["operation"]](**request["arguments"])}
        except Exception as error:
            # The other side decides what becomes of it; the account stays in the log.
            log.exception("%s failed", request["operation"])
            reply = {"error": f"{request['operation']}: {' '.join(str(error).split()) or type(error).__name__}"}
        with writing:
            _write(answers, reply | {"id": request["id"]})

    with ThreadPoolExecutor(THREADS) as pool:
        for line in sys.stdin:
            pool.submit(work, json.loads(line))
        os._exit(0)  # the API is gone: no farewell to a cluster that may not answer


def _write(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
