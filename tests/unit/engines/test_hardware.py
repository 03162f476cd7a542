"""Which accelerator a job gets."""

import pytest

from engines.config import Accelerator
from engines.errors import HardwareUnavailable
from engines.hardware import CPU, CUDA, resolve


def test_the_cluster_decides_when_it_is_asked() -> None:
    assert resolve(Accelerator.AUTO, cluster_resources={"CPU": 8.0, "GPU": 2.0}) is CUDA
    assert resolve(Accelerator.AUTO, cluster_resources={"CPU": 8.0}) is CPU
    assert resolve(Accelerator.CPU, cluster_resources={"GPU": 2.0}) is CPU


def test_cuda_without_a_gpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(HardwareUnavailable, match=r"resources\.accelerator is 'cuda'.*use 'auto' or 'cpu'"):
        resolve(Accelerator.CUDA, cluster_resources={"CPU": 8.0})


def test_trainer_and_engine_agree_on_nccl_memory() -> None:
    assert CUDA.environment["NCCL_CUMEM_ENABLE"] == "0"
