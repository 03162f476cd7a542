"""Megatron checkpoints, written whole or not at all."""

import argparse
import contextlib
import errno
import json
import os
import queue
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist
from megatron.core.dist_checkpointing import check_is_distributed_checkpoint
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.training.checkpointing import load_checkpoint, save_checkpoint
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from trainers.errors import CheckpointInvalid, StorageFailed
from trainers.megatron.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    damage,
    digest,
    expendable,
    files_of,
    read_manifest,
)
from trainers.megatron.start import EXTRA_STATE, OWNER, TRACKER, Checkpoint, iteration_name, read_owner
from trainers.megatron.world import agree, is_rank_zero

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


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


@dataclass(frozen=True, slots=True)
class Keeper:
    """Whose checkpoints these are, and which of them stay."""

    run_id: str
    keep_last: int | None = None
    keep_every: int | None = None


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
    staging = directory / f".saving-{rollout_id}"
    _on_rank_zero(directory, lambda: _prepare(directory, staging, keeper))
    failure: BaseException | None = None
    try:
        with _local_results_queue(), _argument(state.args, "save", str(staging)):
            save_checkpoint(rollout_id, state.modules, state.optimizer, state.scheduler, 0)
            for companion in companions:
                _save_companion(companion, rollout_id, staging / iteration_name(rollout_id))
    except (Exception, CheckpointException) as error:  # torch's is no Exception
        failure = error
    _raise_together(directory, failure)
    written = staging / iteration_name(rollout_id)
    _on_rank_zero(directory, lambda: _write_durably(written / EXTRA_STATE, json.dumps(extra_state)))
    manifest = Manifest(keeper.run_id, rollout_id, tuple(_digests(directory, written)))
    _on_rank_zero(directory, lambda: _publish(directory, staging, rollout_id, manifest, keeper))
    return directory / iteration_name(rollout_id)


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
    with (
        _argument(state.args, "ckpt_format", "torch_dist" if distributed else "torch"),
        _argument(state.args, "use_dist_ckpt", distributed),
        _argument(state.args, "finetune", weights_only),
        _argument(state.args, "no_load_optim", weights_only or state.args.no_load_optim),
        _argument(state.args, "no_load_rng", weights_only or state.args.no_load_rng),
        _argument(state.args, "load", str(checkpoint.directory)),
        _argument(state.args, "ckpt_step", checkpoint.iteration),
    ):
        try:
            load_checkpoint(state.modules, state.optimizer, state.scheduler)
        except (Exception, CheckpointException, SystemExit) as error:  # Megatron exits for what it cannot read
            said = str(error).strip().rpartition("\n")[2]
            raise CheckpointInvalid(f"{checkpoint.path} cannot be loaded: {type(error).__name__}: {said}") from error
    return None if weights_only else read_extra_state(checkpoint)


def _save_companion(companion: Companion, rollout_id: int, inside: Path) -> None:
    state, weights_only = companion.state, companion.state.optimizer is None
    with (
        companion.present(),
        _argument(state.args, "save", str(inside / companion.name)),
        _argument(state.args, "no_save_optim", weights_only or state.args.no_save_optim),
        _argument(state.args, "no_save_rng", True),
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
    with companion.present(), _argument(companion.state.args, "no_load_rng", True):
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


def _prepare(directory: Path, staging: Path, keeper: Keeper) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if read_owner(directory) != keeper.run_id:  # empty, or taken over as both load and save
        _write_durably(directory / OWNER, json.dumps({"run": keeper.run_id}))
    for left_behind in directory.glob(".saving-*"):
        shutil.rmtree(left_behind)
    staging.mkdir()


def _publish(directory: Path, staging: Path, rollout_id: int, manifest: Manifest, keeper: Keeper) -> None:
    name = iteration_name(rollout_id)
    _write_durably(staging / name / MANIFEST, manifest.to_json())
    target = directory / name
    if target.exists():  # saved before its tracker was lost, or by a run whose tracker was taken away
        target.rename(staging / f"{name}.old")
    (staging / name).rename(target)
    _sync(directory)
    tracker = directory / f".{TRACKER}"
    _write_durably(tracker, str(rollout_id))
    tracker.replace(directory / TRACKER)
    _sync(directory)
    shutil.rmtree(staging)
    own = [found.rollout for path in directory.glob("iter_*") if (found := _own(path, keeper.run_id)) is not None]
    for rollout in expendable(own, keep_last=keeper.keep_last, keep_every=keeper.keep_every):
        if rollout != rollout_id:
            # Renamed first: a deletion that is cut short leaves nothing that looks like a checkpoint.
            doomed = directory / f".saving-{rollout}"
            (directory / iteration_name(rollout)).rename(doomed)
            shutil.rmtree(doomed)


def _own(path: Path, run_id: str) -> Manifest | None:
    found = read_manifest(path)
    return found if found is not None and found.run == run_id else None


def _digests(directory: Path, written: Path) -> list[FileEntry]:
    """Of all files, each rank reading its share."""
    failure: OSError | None = None
    mine: list[FileEntry] = []
    try:
        mine = digest(written, files_of(written)[dist.get_rank() :: dist.get_world_size()])
    except OSError as error:
        failure = error
    _raise_together(directory, failure)
    everyone: list[list[FileEntry]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    return sorted((entry for entries in everyone for entry in entries), key=lambda entry: entry.path)


def _verify(checkpoint: Checkpoint) -> None:
    """Against the manifest, each rank its share; a checkpoint of another program has none."""
    found = read_manifest(checkpoint.path)
    if found is None:
        return
    said: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(said, damage(checkpoint.path, found.files[dist.get_rank() :: dist.get_world_size()]))
    if wrong := next((text for text in said if text is not None), None):
        raise CheckpointInvalid(f"{checkpoint.path} is damaged: {wrong}; take an earlier one with checkpoint.ckpt_step")


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _on_rank_zero(directory: Path, do: Any) -> None:
    failure: OSError | None = None
    if is_rank_zero():
        try:
            do()
        except OSError as error:
            failure = error
    if (said := agree(failure)) is not None:
        raise StorageFailed(f"the checkpoint directory {directory} cannot be written: {said}") from failure


def _raise_together(directory: Path, failure: BaseException | None) -> None:
    """Every rank raises when one failed: another would go on to the next collective and wait there."""
    told: list[tuple[bool, str] | None] = [None] * dist.get_world_size()
    said = str(failure).strip().rpartition("\n")[2]
    dist.all_gather_object(told, None if failure is None else (_is_storage(failure), said))
    failures = [each for each in told if each is not None]
    if not failures:
        return
    for is_storage, text in failures:
        if is_storage:
            raise StorageFailed(f"the checkpoint directory {directory} cannot be written: {text}") from failure
    raise failure or RuntimeError(f"another rank could not save to {directory}: {failures[0][1]}")


def _is_storage(error: BaseException) -> bool:
    """Megatron and torch wrap what the file system said, sometimes as text alone."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _STORAGE_ERRORS:
            return True
        seen = seen.__cause__ or seen.__context__
    text = "".join(traceback.format_exception(error))
    # "unexpected pos" is what torch's zip writer says when a write came short.
    return any(os.strerror(code) in text for code in _STORAGE_ERRORS) or "unexpected pos" in text


@contextlib.contextmanager
def _local_results_queue() -> Iterator[None]:
    """A save in this process needs no queue between processes, whose start takes 7 to 18 s."""
    results: queue.Queue[Any] = queue.Queue()
    with mock.patch.object(filesystem_async, "get_write_results_queue", lambda *_: results):
        yield


@contextlib.contextmanager
def _argument(args: argparse.Namespace, name: str, value: Any) -> Iterator[None]:
    """Megatron reads where to save and load from its global arguments."""
    before = getattr(args, name)
    setattr(args, name, value)
    try:
        yield
    finally:
        setattr(args, name, before)
