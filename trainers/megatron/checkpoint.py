"""Megatron checkpoints, written whole or not at all."""

import argparse
import contextlib
import json
import logging
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing import check_is_distributed_checkpoint, load_common_state_dict
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.training import checkpointing
from megatron.training.checkpointing import load_checkpoint, save_checkpoint
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from trainers.errors import CheckpointInvalid
from trainers.megatron.manifest import damage, read_manifest
from trainers.megatron.publication import Keeper, Staging
from trainers.megatron.start import EXTRA_STATE, Checkpoint
from trainers.megatron.storage import failing_late, raise_together

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a checkpoint holds, beside the random states."""

    args: argparse.Namespace
    modules: list[nn.Module]
    """This rank's chunks of the model."""
    optimizer: MegatronOptimizer | None = None
    """None, like ``scheduler``: only weights."""
    scheduler: OptimizerParamScheduler | None = None


@dataclass(frozen=True, slots=True)
class Companion:
    """A second model of the trainer, saved inside the policy's checkpoint under its name."""

    name: str
    state: TrainingState
    present: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered while the module is saved or loaded: puts the companion's weights into it."""


def save(
    state: TrainingState,
    rollout_id: int,
    directory: Path,
    extra_state: dict[str, Any],
    keeper: Keeper,
    companions: Sequence[Companion] = (),
) -> Path:
    """Write ``directory/iter_{rollout_id:07d}`` with its manifest, then the tracker, and let go of what need not be
    kept. A collective.

    Everything is written beside its place and renamed, so that what the tracker names is whole. Raises StorageFailed
    on all ranks, naming the directory.
    """
    staging = Staging(directory, rollout_id, keeper)
    staging.prepare()
    write(state, companions, staging)
    staging.publish(json.dumps(extra_state))
    return staging.target


def write(state: TrainingState, companions: Sequence[Companion], staging: Staging) -> None:
    """All states as Megatron writes them. A collective; raises on all ranks."""
    failure: BaseException | None = None
    try:
        with _local_results_queue(), failing_late():
            with argument(state.args, "save", str(staging.path)):
                save_checkpoint(staging.rollout_id, state.modules, state.optimizer, state.scheduler, 0)
            for companion in companions:
                _save_companion(companion, staging.rollout_id, staging.written)
    except (Exception, CheckpointException) as error:  # torch's is no Exception
        failure = error
    raise_together(staging.directory, failure)


def load(state: TrainingState, checkpoint: Checkpoint, *, verify: bool = True) -> dict[str, Any] | None:
    """Restore everything that was saved; returns its extra state, None when it has none or only the weights are
    wanted. A collective. The format, ``torch`` or ``torch_dist``, is found out.

    Raises CheckpointInvalid when it does not fit the model, cannot be read, or is not what was saved (``verify``).
    """
    if verify:
        _verify(checkpoint)
    weights_only = checkpoint.weights_only or checkpoint.iteration is None
    # Megatron's own detection goes on to treat some parts as if they had the format that is saved.
    distributed = check_is_distributed_checkpoint(str(checkpoint.path))
    no_optimizer = weights_only or state.args.no_load_optim
    if not no_optimizer and _without_optimizer(checkpoint.path, distributed):
        log.warning("%s was saved with no_save_optim: optimizer and schedule begin anew", checkpoint.path)
        no_optimizer = True
    with (
        argument(state.args, "ckpt_format", "torch_dist" if distributed else "torch"),
        argument(state.args, "use_dist_ckpt", distributed),
        argument(state.args, "finetune", weights_only),
        argument(state.args, "no_load_optim", no_optimizer),
        argument(state.args, "no_load_rng", weights_only or state.args.no_load_rng),
        argument(state.args, "load", str(checkpoint.directory)),
        _chosen(state.args, checkpoint),
    ):
        try:
            load_checkpoint(state.modules, state.optimizer, state.scheduler)
        except (Exception, CheckpointException, SystemExit) as error:  # Megatron exits for what it cannot read
            said = str(error).strip().rpartition("\n")[2]
            why = f"{type(error).__name__}: {said}" if said else "Megatron found nothing in it for this rank"
            if not distributed:
                why += (
                    "; what was saved in the torch format can only be loaded with the tensor-, pipeline- and "
                    "expert-parallel sizes that saved it"
                )
            raise CheckpointInvalid(f"{checkpoint.path} cannot be loaded: {why}") from error
    return None if weights_only else read_extra_state(checkpoint)


def _without_optimizer(path: Path, distributed: bool) -> bool:
    """Whether it was left out on purpose; Megatron would look for it all the same."""
    try:
        if distributed:
            common: dict[str, Any] = load_common_state_dict(str(path))
        else:
            [first, *_] = sorted(path.glob("mp_rank_*/model_optim_rng.pt"))
            common = torch.load(first, map_location="cpu", mmap=True)
    except Exception:  # what is wrong with it, loading says
        return False
    return getattr(common.get("args"), "no_save_optim", False) is True


def _save_companion(companion: Companion, rollout_id: int, inside: Path) -> None:
    state, weights_only = companion.state, companion.state.optimizer is None
    with (
        companion.present(),
        argument(state.args, "save", str(inside / companion.name)),
        argument(state.args, "no_save_optim", weights_only or state.args.no_save_optim),
        argument(state.args, "no_save_rng", True),
    ):
        save_checkpoint(rollout_id, state.modules, state.optimizer, state.scheduler, 0)


def load_companion(companion: Companion, checkpoint: Checkpoint) -> bool:
    """Whether ``checkpoint`` has it, and it was restored. A collective; what is read was verified with the policy's.
    Raises CheckpointInvalid."""
    if checkpoint.weights_only or checkpoint.iteration is None or not (checkpoint.path / companion.name).is_dir():
        return False
    own = Checkpoint(
        checkpoint.path / companion.name, checkpoint.iteration, weights_only=companion.state.optimizer is None
    )
    with companion.present(), argument(companion.state.args, "no_load_rng", True):
        load(companion.state, own, verify=False)
    return True


def read_extra_state(checkpoint: Checkpoint) -> dict[str, Any] | None:
    path = checkpoint.path / EXTRA_STATE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointInvalid(f"{path} is not JSON: {error}") from error


def _verify(checkpoint: Checkpoint) -> None:
    """Against the manifest, each rank its share; a checkpoint of another program has none."""
    found = read_manifest(checkpoint.path)
    if found is None:
        return
    said: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(said, damage(checkpoint.path, found.files[dist.get_rank() :: dist.get_world_size()]))
    if wrong := next((text for text in said if text is not None), None):
        remedy = "convert it again" if checkpoint.iteration is None else "take an earlier one with checkpoint.ckpt_step"
        raise CheckpointInvalid(f"{checkpoint.path} is damaged: {wrong}; {remedy}")


@contextlib.contextmanager
def _local_results_queue() -> Iterator[None]:
    """Whoever writes in this process needs no queue between processes, whose start takes 7 to 18 s. A state each."""
    with mock.patch.object(filesystem_async, "get_write_results_queue", lambda *_: queue.Queue()):
        yield


class _Step(int):
    """That was asked for, 0 too: Megatron looks whether there is a step by its truth."""

    def __bool__(self) -> bool:
        return True


@contextlib.contextmanager
def _chosen(args: argparse.Namespace, checkpoint: Checkpoint) -> Iterator[None]:
    """Nothing but this one is loaded. Megatron goes by the tracker for a part of the ``torch`` format whatever the step
    is, and for whether it is a release."""
    iteration = checkpoint.iteration
    tracked = 0 if iteration is None else iteration, iteration is None
    with (
        argument(args, "ckpt_step", None if iteration is None else _Step(iteration)),
        mock.patch.object(checkpointing, "read_metadata", lambda _: tracked),
    ):
        yield


@contextlib.contextmanager
def argument(args: argparse.Namespace, name: str, value: Any) -> Iterator[None]:
    """Megatron reads where and how to save and load from its global arguments."""
    before = getattr(args, name)
    setattr(args, name, value)
    try:
        yield
    finally:
        setattr(args, name, before)
