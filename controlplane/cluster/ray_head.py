"""The head of a Ray cluster on this machine, as a process of ours that ends when a part of it does.

    python -m controlplane.cluster.ray_head '{"ip": …, "directory": …, "ready": …, "ports": {…}, …}'

What `ray start --head` would add is left out: autoscaler, Ray Client server and dashboard, some 400 MB and half of the
start-up time, each on a well-known port that two homes would fight over. Every port is given: a raylet that has to find
its own waits 15 s for its agents at most, which a busy machine exceeds.
"""
# pyright: standard, reportArgumentType=false
# Ray's interface is untyped in parts, and wrong in others.

import json
import logging
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams

log = logging.getLogger(__name__)

_COMPLAINT = re.compile(r"\[[^]]* [EFC] ")


@dataclass(frozen=True, slots=True)
class HeadConfig:
    ip: str
    directory: str
    """Logs, sockets and spilled objects; short, for the sockets' sake."""
    ready: str
    """This file is written once the cluster is up: ``{"address": "host:port"}``."""
    num_cpus: int
    object_store_memory: int
    """Bytes."""
    ports: dict[str, int]
    """By the names of RayParams."""


class _Head(Node):
    def start_api_server(self, **_: Any) -> None:
        """None: the API asks the GCS itself."""
        self._webui_url = ""

    def start_ray_processes(self) -> None:
        """With the raylet known to the GCS. Ray by itself gives it 30 s after this, which a busy machine exceeds, and
        as long to one that has died; who started this process has a deadline."""
        super().start_ray_processes()
        while not (dead := self.dead_processes()):
            try:
                services.get_node(self.gcs_address, self._node_id)
            except RuntimeError:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError("; ".join([*self._complaints(dead), _ends(dead)]))

    def _complaints(self, dead: list[tuple[str, Any]]) -> list[str]:
        """The last that those processes logged as an error: their logs go with the cluster's directory."""
        logs = [path for kind, _ in dead for path in sorted(Path(self.get_logs_dir_path()).glob(f"{kind}.*"))]
        lines = [line for path in logs for line in path.read_text(errors="replace").splitlines()]
        return [line.strip() for line in lines if _COMPLAINT.match(line)][-3:]


def _ends(dead: list[tuple[str, Any]]) -> str:
    return ", ".join(f"{kind} exited with {process.returncode}" for kind, process in dead)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = HeadConfig(**json.loads(sys.argv[1]))
    node: Any = _Head(
        RayParams(
            node_ip_address=config.ip,
            temp_dir=config.directory,
            num_cpus=config.num_cpus,
            object_store_memory=config.object_store_memory,
            include_dashboard=False,
            no_monitor=True,
            include_log_monitor=False,
            **config.ports,
        ),
        head=True,
        shutdown_at_exit=True,
        spawn_reaper=False,
    )
    ready = Path(config.ready)
    temporary = ready.with_suffix(".new")
    temporary.write_text(json.dumps({"address": node.gcs_address}))
    temporary.replace(ready)
    log.info("Ray is up at %s", node.gcs_address)
    while not (dead := node.dead_processes()):
        time.sleep(1.0)
    log.error("ended: %s", _ends(dead))
    return 1


if __name__ == "__main__":
    sys.exit(main())
