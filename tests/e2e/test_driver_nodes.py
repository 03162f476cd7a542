"""On which nodes of a real Ray cluster a driver may be."""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private.label_utils import parse_node_labels_string
from ray.cluster_utils import Cluster

from controlplane.cluster.base import driver_name
from controlplane.cluster.ray import RayCluster
from trainers.reports import Launch

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
DRIVERS = 6
MEMORY = 100 << 20

# Takes the place of the real driver: notes the node that it runs on, and ends.
STAND_IN = """
import sys, types
from pathlib import Path

class Driver:
    def __init__(self, launch):
        self.path = Path(launch["run_dir"]) / launch["job_id"]

    async def run(self):
        import ray
        self.path.with_suffix(".new").write_text(ray.get_runtime_context().get_node_id())
        self.path.with_suffix(".new").rename(self.path)

module = types.ModuleType("trainers.driver")
module.Driver = Driver
sys.modules["trainers.driver"] = module
"""


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A node that knows nothing of Rollway, with the token that tests/conftest.py wrote."""
    # Short: the path of a unix socket holds at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="rwt-", dir="/tmp"))
    # Where the cluster notes its address: by default in /tmp/ray, which others share and a new machine lacks.
    monkeypatch.setenv("RAY_TMPDIR", str(directory))
    (directory / "ray").mkdir()
    cluster = Cluster()
    try:
        cluster.add_node(
            num_cpus=1, object_store_memory=MEMORY, include_dashboard=False, temp_dir=str(directory / "head")
        )
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


async def hosts(nodes: Cluster, directory: Path) -> set[str]:
    """The nodes that a number of drivers ran on."""
    (directory / "sitecustomize.py").write_text(STAND_IN)
    api = RayCluster(lambda: nodes.address, token_path=Path(os.environ["RAY_AUTH_TOKEN_PATH"]))
    jobs = [f"job{number}" for number in range(DRIVERS)]
    try:
        api.connect()
        assert api._connecting is not None
        await api._connecting
        for job_id in jobs:
            launch = Launch(
                job_id=job_id,
                attempt=1,
                spec={"runtime": {"python_path": [str(directory)]}},
                run_dir=str(directory),
                report_url="http://127.0.0.1:9/",
                report_token="t",
            )
            await api.start_driver(driver_name(job_id, 1), launch)
        async with asyncio.timeout(240):
            while not all((directory / job_id).exists() for job_id in jobs):
                await asyncio.sleep(0.1)
    finally:
        await api.close()
    return {(directory / job_id).read_text() for job_id in jobs}


async def test_a_driver_is_kept_off_the_node_that_docker_compose_gives_the_api(nodes: Cluster, tmp_path: Path) -> None:
    [labels] = re.findall(r"--labels=(\S+)", COMPOSE.read_text())
    api = nodes.add_node(num_cpus=0, object_store_memory=MEMORY, labels=parse_node_labels_string(labels))
    others = {node.node_id for node in nodes.list_all_nodes()} - {api.node_id}
    assert await hosts(nodes, tmp_path) <= others
