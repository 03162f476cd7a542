"""The process group, Megatron's parallel groups and its global state: once per process."""

import argparse
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator
from megatron.core.rerun_state_machine import RerunMode, destroy_rerun_state_machine, initialize_rerun_state_machine
from megatron.training.global_vars import destroy_global_vars, set_global_variables
from megatron.training.initialize import _set_random_seed
from torch._C._distributed_c10d import HashStore

from trainers.errors import TrainerLost


def join(args: argparse.Namespace, *, init_method: str | None, timeout_s: float) -> None:
    """Meet the other ranks; without ``init_method``, be a world of one. Raises TrainerLost when they have not come
    within ``timeout_s``; that also bounds any later collective."""
    args.local_rank = 0  # each rank sees its own GPU alone
    if args.distributed_backend == "nccl":
        torch.cuda.set_device(args.local_rank)
    try:
        dist.init_process_group(
            args.distributed_backend,
            init_method=init_method,
            store=HashStore() if init_method is None else None,
            rank=args.rank,
            world_size=args.world_size,
            timeout=timedelta(seconds=timeout_s),
        )
    except dist.DistError as error:
        raise TrainerLost(
            f"rank {args.rank} did not meet {args.world_size} ranks at {init_method} in {timeout_s:.0f} s: {error}"
        ) from error
    set_global_variables(args, build_tokenizer=False)
    parallel_state.initialize_model_parallel(
        args.tensor_model_parallel_size,
        args.pipeline_model_parallel_size,
        args.virtual_pipeline_model_parallel_size,
        pipeline_model_parallel_comm_backend=args.pipeline_model_parallel_comm_backend,
        use_sharp=args.use_sharp,
        context_parallel_size=args.context_parallel_size,
        expert_model_parallel_size=args.expert_model_parallel_size,
        expert_tensor_parallel_size=args.expert_tensor_parallel_size,
        num_distributed_optimizer_instances=args.num_distributed_optimizer_instances,
        order="tp-cp-ep-pp-dp" if args.use_tp_pp_dp_mapping else "tp-cp-ep-dp-pp",
        create_gloo_process_groups=args.use_gloo_process_groups,
        distributed_timeout_minutes=args.distributed_timeout_minutes,
        nccl_communicator_config_path=args.nccl_communicator_config_path,
        high_priority_stream_groups=args.high_priority_stream_groups,
        sharp_enabled_group=args.sharp_enabled_group,
    )
    # Its checks belong to Megatron's own training loop, and fail outside it.
    initialize_rerun_state_machine(mode=RerunMode.DISABLED)
    _set_random_seed(args.seed)


def leave(trained: Sequence[Any] = ()) -> None:
    """Undo :func:`join`, as far as it came. ``trained``: what Megatron wrapped for data parallelism meanwhile."""
    # Each wrapper's hooks refer to it and are held by autograd, where the collector of garbage does not look: with them
    # the wrapper would live for good, with its groups and their threads.
    for module in trained:
        for accumulator in module.grad_accs:
            accumulator.register_hook(_nothing).hooks_dict_ref().clear()
    if parallel_state.is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
    destroy_rerun_state_machine()
    destroy_global_vars()
    destroy_num_microbatches_calculator()
    # A group's threads end with the last reference to it, and model, optimizer and schedule refer to one another.
    gc.collect()


def _nothing(*_: object) -> None: ...


def agree(error: BaseException | None) -> str | None:
    """Tell all ranks how something went that rank 0 alone did: its error's text, or None. A collective."""
    told: list[str | None] = [None if error is None else str(error)]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def is_rank_zero() -> bool:
    return dist.get_rank() == 0


@dataclass(frozen=True, slots=True)
class Groups:
    """The ranks with which this one shares a model or a batch."""

    tensor: dist.ProcessGroup
    pipeline: dist.ProcessGroup
    context: dist.ProcessGroup
    data_parallel: dist.ProcessGroup
    """One of each set of context-parallel ranks."""

    @classmethod
    def of_world(cls) -> "Groups":
        """Once the world is joined."""
        return cls(
            tensor=tensor_parallel_group(),
            pipeline=cast(dist.ProcessGroup, parallel_state.get_pipeline_model_parallel_group()),
            context=cast(dist.ProcessGroup, parallel_state.get_context_parallel_group()),
            data_parallel=data_parallel_group(),
        )


def tensor_parallel_group() -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, parallel_state.get_tensor_model_parallel_group())


def data_parallel_group() -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, parallel_state.get_data_parallel_group())
