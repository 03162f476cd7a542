"""The two conversions, and the comparison of what was written with what it came from."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from trainers.errors import CheckpointInvalid, StorageFailed
from trainers.megatron.convert.checkpoint_file import COMMON_STATE, CheckpointFile, write_checkpoint
from trainers.megatron.convert.progress import Progress, Tell, to_stderr
from trainers.megatron.convert.skeleton import Place, Skeleton
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.export import export_hf
from trainers.megatron.hf.layout import Entry, layout, shard, unshard
from trainers.megatron.hf.load import SafetensorsDirectory, check_names, read_entry
from trainers.megatron.manifest import MANIFEST, Manifest, digest, files_of
from trainers.megatron.start import OWNER, RELEASE, TRACKER, read_owner
from trainers.megatron.storage import write_durably


def hf_to_megatron(
    model: HFModel, skeleton: Skeleton, directory: Path, *, run_id: str | None = None, tell: Tell = to_stderr
) -> Path:
    """Write the weights of ``model.directory``, in their own dtypes, as ``directory/release``. What this very run,
    ``run_id``, has written there before is left as it is.

    Raises ModelInvalid, StorageFailed, or CheckpointInvalid where ``directory`` already holds checkpoints or another
    conversion writes there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone_in(directory):
            if not _is_own(directory, run_id):
                _write_release(model, skeleton, directory, run_id, tell)
            write_durably(directory / TRACKER, RELEASE)
    except OSError as error:
        raise StorageFailed(f"the checkpoint in {directory} cannot be written: {error}") from error
    return directory / RELEASE


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CheckpointInvalid(f"{directory}: another conversion writes there; choose another directory") from None
    finally:
        os.close(descriptor)


def _is_own(directory: Path, run_id: str | None) -> bool:
    """Whether this run has written it all before, and was interrupted when it was about to say so."""
    owner = read_owner(directory)
    if owner is not None and owner != run_id:
        raise CheckpointInvalid(f"{directory} is where run {owner} saves: choose another directory")
    if not (directory / TRACKER).exists() and not (directory / RELEASE).exists():
        return False
    if owner is None or not (directory / RELEASE).exists():
        raise CheckpointInvalid(f"{directory} already holds checkpoints: choose another directory")
    return True


def _write_release(model: HFModel, skeleton: Skeleton, directory: Path, run_id: str | None, tell: Tell) -> None:
    staging, entries = directory / f".{RELEASE}", layout(model)
    progress = Progress("written", len(entries), tell)
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of a conversion that was killed
        staging.mkdir()
        with SafetensorsDirectory(model.directory) as weights:
            check_names(model, weights.names())
            places = [each for entry in entries for each in _places(entry, model, skeleton, weights, progress)]
            write_checkpoint(staging, places, _objects(skeleton))
        manifest = Manifest(run_id or "", 0, tuple(digest(staging, files_of(staging))))
        write_durably(staging / MANIFEST, manifest.to_json())
        if run_id is not None:
            (directory / OWNER).write_text(json.dumps({"run": run_id}))
        staging.rename(directory / RELEASE)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _objects(skeleton: Skeleton) -> dict[str, object]:
    common = {
        "args": skeleton.args,
        "checkpoint_version": 3.0,
        "iteration": 0,
        "content_metadata": dict(skeleton.metadata),
    }
    return {each.unique_key: each.data for each in skeleton.objects.values()} | {COMMON_STATE: common}


def _places(
    entry: Entry, model: HFModel, skeleton: Skeleton, weights: SafetensorsDirectory, progress: Progress
) -> Iterator[tuple[Place, torch.dtype, Callable[[], Tensor]]]:
    """What is stored of one parameter, each with the function that makes it."""
    dtype = weights.dtype(entry.hf[0])
    last: list[Tensor] = []

    def make(number: int, count: int) -> Tensor:
        if number == 0:
            last[:] = [_parameter(entry, model, skeleton, weights)]
            progress.add(last[0].nbytes)
        tensor = skeleton.split(entry.megatron, last[0])[number][1].contiguous()
        if number + 1 == count:
            last.clear()
        return tensor

    with torch.device("meta"):
        parts = skeleton.split(entry.megatron, torch.empty(_shape(entry, model, skeleton), dtype=dtype))
    for number, (place, _) in enumerate(parts):
        yield place, dtype, partial(make, number, len(parts))


def _parameter(entry: Entry, model: HFModel, skeleton: Skeleton, weights: SafetensorsDirectory) -> Tensor:
    return shard(entry, read_entry(model, entry, weights), model, padded_vocab_size=skeleton.padded_vocab_size)


def _shape(entry: Entry, model: HFModel, skeleton: Skeleton) -> tuple[int, ...]:
    with torch.device("meta"):
        tensors = [torch.empty(part.shape) for part in entry.parts]
        return tuple(shard(entry, tensors, model, padded_vocab_size=skeleton.padded_vocab_size).shape)


def megatron_to_hf(
    model: HFModel,
    skeleton: Skeleton,
    checkpoint: Path,
    directory: Path,
    *,
    run_id: str | None = None,
    tell: Tell = to_stderr,
) -> Path:
    """Write the weights of ``checkpoint``, saved under any layout, in the dtype of ``model``'s config, with the other
    files of its directory. Raises CheckpointInvalid or StorageFailed."""
    with CheckpointFile(checkpoint) as stored:
        progress = Progress("written", len(layout(model)), tell)
        return export_hf(model, _from_megatron(model, skeleton, stored, progress), directory, run_id=run_id)


def _from_megatron(
    model: HFModel, skeleton: Skeleton, stored: CheckpointFile, progress: Progress
) -> Iterator[tuple[str, Tensor]]:
    for entry in layout(model):
        tensor = read_parameter(entry, model, skeleton, stored)
        progress.add(tensor.nbytes)
        yield from zip(entry.hf, unshard(entry, [tensor], model), strict=True)


def read_parameter(entry: Entry, model: HFModel, skeleton: Skeleton, stored: CheckpointFile) -> Tensor:
    """As one rank alone would have it."""
    with torch.device("meta"):
        places = [place for place, _ in skeleton.split(entry.megatron, torch.empty(_shape(entry, model, skeleton)))]
    tensor = torch.empty(_shape(entry, model, skeleton), dtype=stored.dtype(places[0].key))
    for place, view in skeleton.split(entry.megatron, tensor):
        view.copy_(stored.read(place))
    return tensor


def check(model: HFModel, skeleton: Skeleton, checkpoint: Path, directory: Path, *, tell: Tell = to_stderr) -> int:
    """Compare every tensor of a Hugging Face ``directory`` with ``checkpoint``, in the directory's dtypes, bit for bit;
    returns how many there are. Raises CheckpointInvalid, which names the first that differs."""
    written, progress = replace(model, directory=directory), Progress("compared", len(layout(model)), tell)
    count = 0
    with CheckpointFile(checkpoint) as stored, SafetensorsDirectory(directory) as weights:
        check_names(written, weights.names())
        for entry in layout(model):
            mine = unshard(entry, [read_parameter(entry, model, skeleton, stored)], model)
            theirs = read_entry(written, entry, weights)
            for name, one, other in zip(entry.hf, mine, theirs, strict=True):
                if not torch.equal(_bits(one.to(other.dtype)), _bits(other)):
                    raise CheckpointInvalid(f"{name} differs between {checkpoint} and {directory}")
                count += 1
            progress.add(sum(tensor.nbytes for tensor in theirs))
    return count


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)
