"""The services of a home, with real parts: up, kill, up again, down; and drivers on the real cluster."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file

from controlplane.cluster.base import ClusterUnavailable, DriverSeen, DriverStatus
from controlplane.cluster.ray import RayCluster
from controlplane.local import postgres, processes, ray
from controlplane.settings import Settings
from trainers.reports import Launch

ROLLWAY = Path(sys.executable).with_name("rollway")
pytestmark = pytest.mark.timeout(600)

# Takes the place of the real driver in the processes of one job: reserves room, starts an actor, notes all ids, waits.
STAND_IN = """
import json, os, sys, types
from pathlib import Path

class Driver:
    def __init__(self, launch):
        self.launch = launch
        if launch["spec"].get("fail"):
            raise ValueError("there is no such model")

    async def run(self):
        import asyncio, ray
        from ray.util.placement_group import placement_group
        name = f"job-{self.launch['job_id']}-{self.launch['attempt']}"
        group = placement_group([{"CPU": 1}], name=name)
        await asyncio.to_thread(group.wait, 30)

        @ray.remote(num_cpus=0)
        class Rank:
            def pid(self):
                return os.getpid()

        rank = Rank.remote()
        facts = {"driver": os.getpid(), "rank": await rank.pid.remote(), "word": os.environ.get("WORD")}
        path = Path(self.launch["run_dir"]) / "facts.json"
        path.with_suffix(".new").write_text(json.dumps(facts))
        path.with_suffix(".new").rename(path)
        while not (path.parent / "end").exists():
            await asyncio.sleep(0.05)

module = types.ModuleType("trainers.driver")
module.Driver = Driver
sys.modules["trainers.driver"] = module
"""


class Home:
    """One installation, used through the command line alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = Settings(path, None, None, None, "127.0.0.1", 0, None, path / "runs")

    def rollway(self, *arguments: str, expect: int = 0, **environment: str) -> str:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ROLLWAY_", "RAY_"))}
        done = subprocess.run(
            [str(ROLLWAY), *arguments],
            env=kept | {"ROLLWAY_HOME": str(self.path), "COLUMNS": "300"} | environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == expect, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    @property
    def endpoint(self) -> dict[str, Any]:
        return json.loads((self.path / "endpoint.json").read_text())

    def get(self, path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {(self.path / 'api_key').read_text()}"}
        return httpx.get(f"{self.endpoint['url']}{path}", headers=headers, timeout=30, trust_env=False)

    def processes(self) -> dict[int, str]:
        """Every process with a file, a directory, an argument or a variable in this home's places."""
        places = [str(self.path), str(ray._directory(self.path).parent)]
        if known := postgres._known_place(self.path):
            places.append(str(known.base))
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                said = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
                links = [os.readlink(link) for link in [entry / "cwd", *(entry / "fd").iterdir()]]
            except OSError:
                continue
            if any(place.encode() in said or any(link.startswith(place) for link in links) for place in places):
                found[int(entry.name)] = said.replace(b"\0", b" ").decode(errors="replace")[:120]
        return found


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    try:
        home.rollway("up")
        yield home
    finally:
        home.rollway("down", "--purge", "--yes")


def test_up_leaves_a_service_that_is_ready_and_asks_for_its_key(home: Home) -> None:
    assert home.get("/readyz").json()["status"] == "ready"
    assert home.get("/v1/jobs").json()["items"] == []
    assert httpx.get(f"{home.endpoint['url']}/v1/jobs", trust_env=False).status_code == 401
    assert (home.path / "api_key").stat().st_mode & 0o077 == 0
    assert ray.token_path(home.settings).stat().st_mode & 0o077 == 0


def test_up_again_changes_nothing(home: Home) -> None:
    before = home.endpoint, ray.find(home.settings), postgres.find(home.settings)
    home.rollway("up")
    assert (home.endpoint, ray.find(home.settings), postgres.find(home.settings)) == before


def test_up_with_a_port_in_use_names_it_and_leaves_the_api_running(home: Home) -> None:
    before = home.endpoint
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = home.rollway("up", expect=1, ROLLWAY_PORT=str(port))
    assert f"port {port} of 127.0.0.1: it is in use by another program" in said
    assert home.endpoint == before and home.get("/readyz").status_code == 200


def test_a_killed_api_comes_back_alone_and_at_the_same_place(home: Home) -> None:
    before, others = home.endpoint, (ray.find(home.settings), postgres.find(home.settings))
    os.kill(before["pid"], signal.SIGKILL)
    assert "stopped" in home.rollway("status", expect=1)
    home.rollway("up")
    assert home.endpoint["url"] == before["url"] and home.endpoint["pid"] != before["pid"]
    assert (ray.find(home.settings), postgres.find(home.settings)) == others
    assert home.get("/readyz").status_code == 200


def test_weights_are_converted_by_jobs(home: Home, tiny_model: Path, tmp_path: Path) -> None:
    megatron, back, given_up = (tmp_path / name for name in ("megatron", "back", "given-up"))
    to_megatron = ["convert", "hf-to-megatron", "--hf-checkpoint", str(tiny_model), "--save"]
    cancelled = home.rollway(*to_megatron, str(given_up), "--submit").strip()
    home.rollway("cancel", cancelled)
    nowhere = ["--hf-checkpoint", str(tmp_path / "nowhere"), "--save", str(back)]
    refused = home.rollway("convert", "hf-to-megatron", *nowhere, "--submit", "--follow", expect=1)
    assert "failed (model_invalid)" in refused and "nowhere" in refused

    said = home.rollway(*to_megatron, str(megatron), "--check", "--submit", "--follow")
    assert "tensors agree bit for bit" in said and "succeeded (finished)" in said
    assert (megatron / "latest_checkpointed_iteration.txt").read_text() == "release"
    from_megatron = ["convert", "megatron-to-hf", "--load", str(megatron), "--hf-checkpoint", str(tiny_model)]
    job_id = home.rollway(*from_megatron, "--save", str(back), "--submit").strip()
    home.rollway("follow", job_id)
    before, after = load_file(tiny_model / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    [found] = home.get(f"/v1/jobs/{job_id}/checkpoints").json()["items"]
    assert (found["format"], found["path"]) == ("hf", str(back))
    events = [event["type"] for event in home.get(f"/v1/jobs/{job_id}/events").json()["items"]]
    assert "converted" in events
    eventually(lambda: home.get(f"/v1/jobs/{cancelled}").json()["state"] == "cancelled", "the cancelled job's end")
    assert not (given_up / ".release").exists(), "nothing half written"


@pytest.fixture
async def cluster(home: Home) -> AsyncIterator[RayCluster]:
    cluster = RayCluster(lambda: ray.address(home.settings), token_path=ray.token_path(home.settings))
    cluster.connect()
    assert cluster._connecting is not None
    await cluster._connecting
    yield cluster
    await cluster.close()


def launch(directory: Path, job_id: str, **spec: Any) -> Launch:
    (directory / "sitecustomize.py").write_text(STAND_IN)
    runtime = {"env_vars": {"WORD": "from the spec"}, "python_path": [str(directory)]}
    return Launch(
        job_id=job_id,
        attempt=1,
        spec={"runtime": runtime, **spec},
        run_dir=str(directory),
        report_url="http://127.0.0.1:9/",
        report_token="t",
    )


async def until(cluster: RayCluster, name: str, status: DriverStatus) -> DriverSeen:
    async with asyncio.timeout(120):
        while (seen := await cluster.observe(name)).status is not status:
            await asyncio.sleep(0.1)
    return seen


async def until_free(cluster: RayCluster, *, taken: int) -> None:
    """Ray's count of what is free follows with a delay."""
    slots = max(8, 2 * (os.cpu_count() or 1))
    async with asyncio.timeout(60):
        while f"{slots - taken} of {slots} CPU free" not in await cluster.describe():
            await asyncio.sleep(0.1)


async def test_a_driver_outlives_who_started_it_and_takes_what_it_owns_along(
    cluster: RayCluster, tmp_path: Path
) -> None:
    assert (await cluster.observe("job-a-1")).status is DriverStatus.ABSENT
    await asyncio.gather(*(cluster.start_driver("job-a-1", launch(tmp_path, "a")) for _ in range(3)))
    await until(cluster, "job-a-1", DriverStatus.ALIVE)
    path = tmp_path / "facts.json"
    facts = json.loads(await asyncio.to_thread(eventually, lambda: path.exists() and path.read_text(), "the facts"))
    assert facts["word"] == "from the spec"

    caller = cluster._caller
    assert caller is not None
    os.kill(caller._process.pid, signal.SIGKILL)  # as when the API is killed: its connection to Ray ends with it
    await caller._process.wait()
    await until(cluster, "job-a-1", DriverStatus.ALIVE)
    await cluster.start_driver("job-a-1", launch(tmp_path, "a"))
    assert json.loads(path.read_text()) == facts
    assert all(Path(f"/proc/{facts[who]}").exists() for who in ("driver", "rank"))
    await until_free(cluster, taken=1)

    os.kill(facts["rank"], signal.SIGSTOP)  # as one that is slow to die
    assert not await cluster.release("job-a-1"), "what the driver owned has not ended yet"
    os.kill(facts["rank"], signal.SIGCONT)
    async with asyncio.timeout(30):
        while not await cluster.release("job-a-1"):
            pass
    eventually(lambda: not any(Path(f"/proc/{facts[who]}").exists() for who in ("driver", "rank")), "both are gone")
    assert (await cluster.observe("job-a-1")).status is DriverStatus.DEAD
    await until_free(cluster, taken=0)
    assert await cluster.release("job-a-1") and await cluster.release("never-was")


async def test_a_driver_that_cannot_begin_is_dead_with_its_reason(cluster: RayCluster, tmp_path: Path) -> None:
    await cluster.start_driver("job-b-1", launch(tmp_path, "b", fail=True))
    seen = await until(cluster, "job-b-1", DriverStatus.DEAD)
    assert seen.detail == "ValueError: there is no such model"


async def test_the_process_of_a_driver_ends_with_its_run(cluster: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "end").touch()
    await cluster.start_driver("job-c-1", launch(tmp_path, "c"))
    await until(cluster, "job-c-1", DriverStatus.DEAD)
    assert await cluster.release("job-c-1")


async def test_a_wrong_token_is_unavailable_and_not_a_hang(home: Home, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    stranger = RayCluster(
        lambda: ray.address(home.settings), token_path=tmp_path / "token", connect_timeout_s=8, call_timeout_s=20
    )
    with pytest.raises(ClusterUnavailable, match="token"):
        await stranger.observe("nobody")
    with pytest.raises(ClusterUnavailable, match=r"still connecting to Ray at .*; before: .*token"):
        await stranger.describe()
    await stranger.close()


async def test_a_connection_that_hangs_is_replaced(cluster: RayCluster) -> None:
    await cluster.describe()
    caller = cluster._caller
    assert caller is not None
    cluster._call_timeout_s = 2.0
    os.kill(caller._process.pid, signal.SIGSTOP)
    with pytest.raises(ClusterUnavailable, match="did not answer"):
        await cluster.describe()
    cluster._call_timeout_s = 30.0
    assert "1 node" in await cluster.describe()


async def test_a_dead_cluster_is_replaced_and_the_same_api_finds_the_new_one(
    cluster: RayCluster, home: Home, tmp_path: Path
) -> None:
    head, api = ray.find(home.settings), home.endpoint
    assert head is not None
    await cluster.start_driver("job-d-1", launch(tmp_path, "d"))
    path = tmp_path / "facts.json"
    facts = json.loads(await asyncio.to_thread(eventually, lambda: path.exists() and path.read_text(), "the facts"))
    servers = {pid for pid in home.processes() if processes.command_line(pid)[0].startswith("ray::")}
    assert {facts["driver"], facts["rank"]} < servers  # and Ray's own agents
    os.kill(head.pid, signal.SIGKILL)
    eventually(lambda: ray.find(home.settings) is None, "the head is gone")
    assert home.get("/readyz").status_code == 503
    await asyncio.to_thread(home.rollway, "up")
    new = ray.find(home.settings)
    assert new is not None and new.pid != head.pid
    assert not servers & set(home.processes())
    assert home.endpoint == api
    assert home.get("/readyz").status_code == 200


def test_down_leaves_nothing_behind_and_touches_no_other_home(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    neighbour = postgres.start(other.settings)
    try:
        assert len(home.processes()) > 5
        home.rollway("down")
        assert home.processes() == {}
        assert postgres.start(other.settings) == type(neighbour)(neighbour.url, neighbour.pid, neighbour.data, False)
        assert "was not running" in home.rollway("down")
    finally:
        postgres.stop(other.settings)
        postgres.remove(other.settings)
