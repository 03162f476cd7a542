"""Real parts, started once and shared: a tiny model, a Ray cluster, and for each module that asks, one engine."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from engines.client import GenerateClient
from engines.config import Accelerator, EngineConfig, ResourcesConfig
from engines.fleet import Fleet
from engines.hardware import Hardware, resolve
from engines.placement import Placement, reserve
from tests.e2e.tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random Qwen3 of 2 layers in float32, and its tokenizer."""
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of tests.e2e.trainer_cases.MODELS."""
    from tests.e2e.trainer_cases import build_models  # with Megatron, which not every test needs

    return build_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def hardware() -> Hardware:
    return resolve(Accelerator.CPU)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Address of a Ray cluster of this test run alone, with the token that tests/conftest.py wrote; this process is
    connected to it."""
    # Short: the path of a unix socket holds at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="rwt-", dir="/tmp"))
    context = ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        namespace="rollway",
        object_store_memory=256 << 20,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(directory / "ray"),
    )
    try:
        yield context.address_info["gcs_address"]
    finally:
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class RunningFleet:
    """One engine behind a router, not yet admitted, and a client of the router."""

    fleet: Fleet
    placement: Placement
    client: GenerateClient
    progress: list[str]


@pytest.fixture(scope="module")
async def running(
    ray_cluster: str, tiny_model: Path, hardware: Hardware, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningFleet]:
    placement = await reserve(ResourcesConfig(placement_timeout_s=60.0), hardware, name="test-engines")
    fleet = Fleet(
        EngineConfig(dtype="float32", start_timeout_s=600.0),
        hardware,
        model_path=str(tiny_model),
        slots=placement.engine_slots,
        tp_size=1,
        log_dir=tmp_path_factory.mktemp("engine-logs"),
    )
    progress: list[str] = []
    try:
        await fleet.start(progress.append)
        async with GenerateClient(
            fleet.base_url, max_concurrency=64, request_timeout_s=60.0, retry_window_s=1.0
        ) as client:
            yield RunningFleet(fleet, placement, client, progress)
    finally:
        await fleet.close()
        await placement.release()
