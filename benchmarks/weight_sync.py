"""Bytes per second of a weight sync into a real engine, against a bare broadcast of the same buckets between two
processes. On a machine with two GPUs or more over NCCL, else over gloo.

    python benchmarks/weight_sync.py [--model DIRECTORY] [--bucket-mb MIB]
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM

from engines.config import Accelerator, EngineConfig
from engines.hardware import CPU, CUDA, Hardware, resolve
from engines.sglang.actor import EngineLaunch, SGLangEngine
from tests.e2e.tiny_model import build_tiny_model
from trainers.weights.buckets import buckets
from trainers.weights.collective import CollectiveSender

HOST = "127.0.0.1"
REPEATS = 5
WIDE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "head_dim": 64,
}


async def synced(model: Path, hardware: Hardware, bucket_bytes: int, log_dir: Path) -> list[float]:
    """Bytes per second of each sync after the first, which also forms the process group."""
    sender = CollectiveSender(backend=hardware.collective_backend, device=hardware.torch_device, host=HOST)
    # The engine has the last GPU, this process the first.
    env = {"CUDA_VISIBLE_DEVICES": str(torch.cuda.device_count() - 1)} if hardware is CUDA else {}
    launch = EngineLaunch(0, str(model), EngineConfig(dtype="auto"), hardware, 1, log_dir, env)
    engine = SGLangEngine(launch, HOST)
    try:
        print("starting the engine: imports take half a minute and more")
        receiver = await engine.start()
        weights = AutoModelForCausalLM.from_pretrained(model, dtype="auto").to(hardware.torch_device).state_dict()
        rates = []
        for version in range(REPEATS + 1):
            stats = await sender.send(
                [receiver], weights.items(), version, pause_mode="retract", bucket_bytes=bucket_bytes, timeout_s=300.0
            )
            rates.append(stats.num_bytes / stats.seconds)
        print(f"{stats.num_bytes / 1e6:.1f} MB in {stats.buckets} buckets; the last sync took {stats.seconds:.3f} s")
        return rates[1:]
    finally:
        await sender.close()
        await engine.stop()


def bare(model: Path, hardware: Hardware, bucket_bytes: int) -> list[float]:
    """The same bytes from rank 0 to rank 1, with nobody to load them."""
    with tempfile.NamedTemporaryFile() as store:
        child = mp.get_context("spawn").Process(
            target=_broadcast, args=(1, model, hardware.torch_device, bucket_bytes, store.name)
        )
        child.start()
        rates = _broadcast(0, model, hardware.torch_device, bucket_bytes, store.name)
        child.join(60)
    return rates


def _broadcast(rank: int, model: Path, kind: str, bucket_bytes: int, store: str) -> list[float]:
    device = torch.device(kind, rank) if kind == "cuda" else torch.device("cpu")
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    weights = AutoModelForCausalLM.from_pretrained(model, dtype="auto").state_dict()
    flats = [bucket.flat for bucket in buckets(weights.items(), bucket_bytes=bucket_bytes, device=device)]
    rates = []
    for _ in range(REPEATS + 1):
        dist.barrier()
        started = time.perf_counter()
        for flat in flats:
            dist.broadcast(flat, 0)
        dist.barrier()  # rank 1 has it all
        rates.append(sum(flat.nbytes for flat in flats) / (time.perf_counter() - started))
    dist.destroy_process_group()
    return rates[1:]


def main(model: Path | None, bucket_mb: float | None) -> None:
    hardware = resolve(Accelerator.AUTO) if torch.cuda.device_count() > 1 else CPU
    os.environ |= dict(hardware.environment) if hardware is CUDA else {}
    bucket_bytes = int((bucket_mb or hardware.bucket_mb) * 2**20)
    with tempfile.TemporaryDirectory() as scratch:
        model = model or build_tiny_model(Path(scratch) / "model", **WIDE)
        ours = asyncio.run(synced(model, hardware, bucket_bytes, Path(scratch)))
        base = bare(model, hardware, bucket_bytes)
    print(f"weight sync     {statistics.median(ours) / 1e6:8.0f} MB/s   median of {REPEATS}, engine loading included")
    print(f"bare broadcast  {statistics.median(base) / 1e6:8.0f} MB/s")
    print(f"ratio           {statistics.median(ours) / statistics.median(base):8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--bucket-mb", type=float, help="unless given, a job's default")
    options = parser.parse_args()
    main(options.model, options.bucket_mb)
