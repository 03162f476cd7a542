"""Accelerators: which there are, and what each needs."""

from collections.abc import Mapping

from engines.config import Accelerator
from engines.errors import HardwareUnavailable
from engines.hardware import nvidia
from engines.hardware.base import Hardware
from engines.hardware.cpu import CPU
from engines.hardware.nvidia import CUDA

__all__ = ["CPU", "CUDA", "Hardware", "resolve"]


def resolve(accelerator: Accelerator, *, cluster_resources: Mapping[str, float] | None = None) -> Hardware:
    """The hardware that a job runs on.

    With ``cluster_resources`` (``ray.cluster_resources()``) the cluster decides, as a driver may sit on a node
    without GPUs; without them, this machine. Raises HardwareUnavailable when CUDA is asked for and not there.
    """
    if accelerator is Accelerator.CPU:
        return CPU
    present = nvidia.is_present() if cluster_resources is None else cluster_resources.get("GPU", 0) > 0
    if present:
        return CUDA
    if accelerator is Accelerator.AUTO:
        return CPU
    where = "this machine has no NVIDIA GPU" if cluster_resources is None else "no node of the cluster offers a GPU"
    raise HardwareUnavailable(f"resources.accelerator is 'cuda', but {where}: use 'auto' or 'cpu', or add a GPU")
