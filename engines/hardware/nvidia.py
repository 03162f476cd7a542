"""NVIDIA GPUs."""

from pathlib import Path

from engines.hardware.base import Hardware

CUDA = Hardware(
    name="cuda",
    torch_device="cuda",
    collective_backend="nccl",
    slot_resources={"GPU": 1.0, "CPU": 1.0},
    # SGLang sets this in its own processes. A trainer that does not do the same waits for ever in their common
    # process group, while the engine gets 'invalid argument' from NCCL.
    environment={"NCCL_CUMEM_ENABLE": "0"},
    engine_environment={},
    # Micro-batches differ in length, and blocks of fixed size would be kept for lengths that do not come again.
    trainer_environment={"PYTORCH_ALLOC_CONF": "expandable_segments:True"},
    sglang_defaults={"attention_backend": "triton", "sampling_backend": "pytorch"},
    bucket_mb=512.0,
)


def is_present() -> bool:
    """Whether this machine has an NVIDIA GPU with a driver; asks the driver's files, not torch."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/proc/driver/nvidia/gpus").glob("*"))
