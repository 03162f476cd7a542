"""A process group beside the trainer's own: rank 0 here, one rank per engine process."""

import uuid
from datetime import timedelta
from typing import Literal, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend as BackendProcess
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.distributed_c10d import Backend, BackendConfig, GroupName

from engines.protocols import CollectivePlan, WeightReceiver

OPEN_TIMEOUT_S = 120.0
"""For engines that are up and paused to come to the rendezvous."""


class SyncGroup:
    """The sender's end. torch has no public way to a group with processes outside the default one: SGLang builds
    its end with torch's internals, and this builds the counterpart, finding each other under the same store keys.
    Nothing is registered with torch's global state, so Megatron's groups never see it.
    """

    def __init__(
        self,
        receivers: tuple[WeightReceiver, ...],
        *,
        backend: Literal["gloo", "nccl"],
        device: torch.device,
        host: str,
        timeout_s: float,
    ):
        self.receivers = receivers
        self.name = f"weights-{uuid.uuid4().hex[:12]}"
        self.world_size = 1 + sum(receiver.num_ranks for receiver in receivers)
        self._backend = cast(Backend, Backend(backend))
        self._device = device
        self._host = host
        self._timeout = timedelta(seconds=timeout_s)
        # Ours before anyone looks for it, on a port that the system picks.
        store = TCPStore(
            host,
            0,
            self.world_size,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=min(timeout_s, OPEN_TIMEOUT_S)),
        )
        self._store: Store | None = store
        self._port = store.port
        self._group: dist.ProcessGroup | None = None

    def plan(self, receiver: WeightReceiver) -> CollectivePlan:
        """How ``receiver`` joins: ranks follow the order of the receivers."""
        before = self.receivers[: self.receivers.index(receiver)]
        return CollectivePlan(
            group=self.name,
            backend="nccl" if self._backend == Backend.NCCL else "gloo",
            master_address=self._host,
            master_port=self._port,
            world_size=self.world_size,
            rank_offset=1 + sum(other.num_ranks for other in before),
        )

    def open(self) -> None:
        """Meet the receivers. Blocks; run it beside their ``join``. Raises RuntimeError when they do not come."""
        if self._store is None:
            raise RuntimeError(f"process group {self.name} has ended")
        self._enter_device()
        store = PrefixStore(f"{self.name}/", PrefixStore(self.name, self._store))
        devices = list(BackendConfig(self._backend).get_device_backend_map())
        group = dist.ProcessGroup(store, 0, self.world_size)
        kind = Backend.backend_type_map[str(self._backend)]
        group._set_default_backend(kind)
        backend = self._create_backend(PrefixStore(f"{devices[0]}/", store))
        for device in devices:
            group._register_backend(torch.device(device), kind, backend)
        if self._store is None:
            group.abort()  # given up meanwhile
            raise RuntimeError(f"process group {self.name} has ended")
        self._group = group

    def broadcast(self, flat: torch.Tensor) -> dist.Work:
        """Begin sending to all receivers. May block while the first NCCL collective builds its communicator."""
        if self._group is None:
            raise RuntimeError(f"process group {self.name} is not open")
        self._enter_device()
        return self._group.broadcast(flat, 0)

    def abort(self) -> None:
        """End it from any state, collectives under way included. The receivers see their connections close."""
        group, self._group, self._store = self._group, None, None
        if group is not None:
            group.abort()

    def destroy(self) -> None:
        """End an idle group in good order."""
        group, self._group, self._store = self._group, None, None
        if group is not None:
            group.shutdown()

    def _create_backend(self, store: Store) -> BackendProcess:
        if self._backend == Backend.GLOO:
            return dist.ProcessGroupGloo(store, 0, self.world_size, timeout=self._timeout)
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = self._timeout
        options.group_name = GroupName(self.name)
        return dist.ProcessGroupNCCL(store, 0, self.world_size, options)

    def _enter_device(self) -> None:
        """The current CUDA device belongs to a thread, and this may be a fresh one."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
