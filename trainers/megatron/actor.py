"""One rank as a Ray actor. Light to import: torch and Megatron come with :meth:`TrainRank.start`."""

import asyncio
import faulthandler
import gc
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.hardware.base import Hardware
from engines.protocols import WeightReceiver
from trainers.config import RunConfig
from trainers.megatron.start import Checkpoint
from trainers.protocols import StepStats, TrainBatch, TrainerState

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

    from trainers.megatron.rank import Rank
    from trainers.weights.collective import CollectiveSender, SyncStats


@dataclass(frozen=True, slots=True)
class RankLaunch:
    """Everything a rank needs to begin."""

    rank: int
    world_size: int
    config: RunConfig
    run_id: str
    hardware: Hardware
    log: Path


class TrainRank:
    """Hosts one :class:`trainers.megatron.rank.Rank`. Calls run one after the other in one thread.

    Every method but :meth:`rendezvous` and :meth:`describe` is a collective: the group calls it on all ranks.
    """

    def __init__(self, launch: RankLaunch):
        self._launch = launch
        self._rank: Rank | None = None
        self._store: TCPStore | None = None
        self._sender: CollectiveSender | None = None
        self._loop = asyncio.new_event_loop()
        _log_to(launch.log)
        # Torch reads these when it is imported, and Ray's own settings have come by now.
        hardware = launch.hardware
        os.environ |= {"HF_HUB_OFFLINE": "1", **hardware.environment, **hardware.trainer_environment}
        os.environ |= launch.config.runtime.env_vars
        if hardware.torch_device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def rendezvous(self) -> str:
        """Where all ranks meet: on rank 0's host."""
        from trainers.megatron.rendezvous import meeting_place

        self._store, init_method = meeting_place(_node_ip())
        return init_method

    def describe(self) -> dict[str, Any]:
        return {"rank": self._launch.rank, "pid": os.getpid(), "host": _node_ip(), "log": str(self._launch.log)}

    def start(self, init_method: str, begin: Checkpoint | None) -> TrainerState:
        launch = self._launch
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        from trainers.megatron.failure import memory_errors
        from trainers.megatron.rank import Rank

        with memory_errors(f"rank {launch.rank} starting"):
            self._rank = Rank(
                launch.config,
                run_id=launch.run_id,
                rank=launch.rank,
                world_size=launch.world_size,
                device=launch.hardware.torch_device,
                init_method=init_method,
                begin=begin,
            )
        # Megatron collects garbage at every save: half a second, most of it over what was imported and stays.
        gc.collect()
        gc.freeze()
        return self._rank.state

    def step(self, batch: TrainBatch) -> StepStats:
        from trainers.megatron.failure import memory_errors

        with memory_errors(f"rank {self._launch.rank} training rollout {batch.rollout_id}"):
            return self._started().step(batch)

    def save(self, rollout_id: int, directory: Path, extra_state: dict[str, Any]) -> Path:
        from trainers.megatron.failure import memory_errors

        with memory_errors(f"rank {self._launch.rank} saving rollout {rollout_id}"):
            return self._started().save(rollout_id, directory, extra_state)

    def save_settled(self) -> bool:
        from trainers.megatron.failure import memory_errors

        with memory_errors(f"rank {self._launch.rank} completing a checkpoint"):
            return self._started().save_settled()

    def export_hf(self, directory: Path) -> Path:
        from trainers.megatron.failure import memory_errors

        with memory_errors(f"rank {self._launch.rank} exporting"):
            return self._started().export_hf(directory)

    def sync_weights(self, receivers: Sequence[WeightReceiver], version: int) -> "SyncStats | None":
        """Rank 0 sends and returns what it sent; the others help to gather."""
        from trainers.megatron.device import megatron_device
        from trainers.megatron.failure import memory_errors
        from trainers.weights.collective import CollectiveSender

        rank, hardware, sync = self._started(), self._launch.hardware, self._launch.config.sync
        with memory_errors(f"rank {self._launch.rank} sending weight version {version}"):
            if self._launch.rank != 0:
                rank.assist()
                rank.published(version)
                return None
            if self._sender is None:
                self._sender = CollectiveSender(
                    backend=hardware.collective_backend, device=hardware.torch_device, host=_node_ip()
                )
            with megatron_device(hardware.torch_device):
                stats = self._loop.run_until_complete(
                    self._sender.send(
                        receivers,
                        rank.named_tensors(),
                        version,
                        pause_mode=sync.pause_mode,
                        bucket_bytes=int((sync.bucket_mb or hardware.bucket_mb) * 2**20),
                        timeout_s=sync.timeout_s,
                    )
                )
            rank.published(version)
            return stats

    def close(self) -> None:
        """Leave the process groups, so that nobody else's socket breaks. Safe to call again."""
        sender, self._sender = self._sender, None
        if sender is not None:
            self._loop.run_until_complete(sender.close())
        rank, self._rank = self._rank, None
        if rank is not None:
            rank.close()

    def _started(self) -> "Rank":
        if self._rank is None:
            raise RuntimeError(f"rank {self._launch.rank} is not started")
        return self._rank


def _log_to(path: Path) -> None:
    """Everything that this process and its libraries print goes to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", buffering=1)
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    sys.stdout = sys.stderr = file
    faulthandler.enable(file)
    logging.basicConfig(
        stream=file, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )


def _node_ip() -> str:
    import ray.util

    return ray.util.get_node_ip_address()
