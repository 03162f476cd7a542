"""The two conversions, and the comparison of what was written with what it came from."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from trainers.errors import CheckpointInvalid, StorageFailed
from trainers.megatron.convert.checkpoint_file import COMMON_STATE, CheckpointFile, write_checkpoint
from trainers.megatron.convert.progress import Progress
from trainers.megatron.convert.skeleton import Place, Skeleton
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.export import export_hf
from trainers.megatron.hf.layout import Entry, layout, shard, unshard
from trainers.megatron.hf.load import SafetensorsDirectory, check_names, read_entry
from trainers.megatron.start import RELEASE, TRACKER


def hf_to_megatron(model: HFModel, skeleton: Skeleton, directory: Path) -> Path:
    """Write the weights of ``model.directory``, in their own dtypes, as ``directory/release``. Raises ModelInvalid,
    StorageFailed, or CheckpointInvalid where ``directory`` already holds checkpoints."""
    if (directory / TRACKER).exists() or (directory / RELEASE).exists():
        raise CheckpointInvalid(f"{directory} already holds checkpoints: choose another directory")
    staging = directory / f".{RELEASE}"
    entries, progress = layout(model), Progress("written", len(layout(model)))
    try:
        staging.mkdir(parents=True)
        with SafetensorsDirectory(model.directory) as weights:
            check_names(model, weights.names())
            places = [each for entry in entries for each in _places(entry, model, skeleton, weights, progress)]
            write_checkpoint(staging, places, _objects(skeleton))
        staging.rename(directory / RELEASE)
        (directory / TRACKER).write_text(RELEASE)
    except OSError as error:
        raise StorageFailed(f"the checkpoint in {directory} cannot be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return directory / RELEASE


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


def megatron_to_hf(model: HFModel, skeleton: Skeleton, checkpoint: Path, directory: Path) -> Path:
    """Write the weights of ``checkpoint``, saved under any layout, in the dtype of ``model``'s config, with the other
    files of its directory. Raises CheckpointInvalid or StorageFailed."""
    with CheckpointFile(checkpoint) as stored:
        return export_hf(
            model, _from_megatron(model, skeleton, stored, Progress("written", len(layout(model)))), directory
        )


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


def check(model: HFModel, skeleton: Skeleton, checkpoint: Path, directory: Path) -> int:
    """Compare every tensor of a Hugging Face ``directory`` with ``checkpoint``, in the directory's dtypes, bit for bit;
    returns how many there are. Raises CheckpointInvalid, which names the first that differs."""
    written, progress = replace(model, directory=directory), Progress("compared", len(layout(model)))
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
