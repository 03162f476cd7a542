"""A Hugging Face directory, written whole or not at all."""

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from trainers.errors import StorageFailed
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.layout import layout
from trainers.megatron.hf.load import INDEX, SINGLE, SafetensorsDirectory, untrained_names
from trainers.megatron.hf.safetensors_file import SafetensorsFile, Slot
from trainers.megatron.hf.target import OWNER, check_target, owner_text

FILE_BYTES = 4 << 30
COMPANIONS = (".json", ".jinja", ".txt", ".model", ".py")


def export_hf(
    model: HFModel, named_tensors: Iterable[tuple[str, Tensor]], directory: Path, *, run_id: str | None = None
) -> Path:
    """Write weights in the dtype of the model's config, its config and its tokenizer files to ``directory``, and with
    them the tensors of the model's own directory that are not trained.

    ``named_tensors``, in any order, is always read to its end: other ranks take part in producing it. One is held at a
    time. An export that the same run wrote to ``directory`` is replaced in one step. Raises CheckpointInvalid where
    anything else lies there, and StorageFailed; nothing half-written is left under its name.
    """
    tensors = iter(named_tensors)
    target = directory.resolve()
    partial = target.parent / f".{target.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        check_target(target, run_id)
        partial.mkdir(parents=True)
        _copy_companions(model.directory, partial)
        if run_id is not None:
            (partial / OWNER).write_text(owner_text(run_id))
        with ExitStack() as stack:
            has_weights = any((model.directory / name).is_file() for name in (INDEX, SINGLE))
            originals = stack.enter_context(SafetensorsDirectory(model.directory)) if has_weights else None
            _write_weights(chain(tensors, _untrained(model, originals)), partial, weight_slots(model, originals))
        _swap(partial, target)
    except OSError as error:
        raise StorageFailed(f"the Hugging Face export to {directory} failed: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for _ in tensors:
            pass
    return directory


def weight_slots(model: HFModel, originals: SafetensorsDirectory | None) -> dict[str, Slot]:
    """Every tensor of an export. What is trained is in the config's dtype; the few that are kept in float32, and what
    is not trained, are as they were in ``originals``."""
    usual = getattr(torch, model.dtype)
    stored = set[str]() if originals is None else originals.names()
    slots: dict[str, Slot] = {}
    for entry in layout(model):
        for part in entry.parts:
            kept = torch.float32 if originals is None or part.name not in stored else originals.dtype(part.name)
            slots[part.name] = Slot(part.shape, kept if entry.float32 else usual)
    if originals is not None:
        for name in sorted(untrained_names(model, stored)):
            slots[name] = Slot(originals.shape(name), originals.dtype(name))
    return slots


def _untrained(model: HFModel, originals: SafetensorsDirectory | None) -> Iterator[tuple[str, Tensor]]:
    if originals is not None:
        for name in sorted(untrained_names(model, originals.names())):
            yield name, originals.tensor(name)


def _copy_companions(source: Path, target: Path) -> None:
    """Everything but the weights: config, generation config, tokenizer, chat template."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in COMPANIONS and path.name not in (INDEX, OWNER):
            shutil.copyfile(path, target / path.name)


def _write_weights(tensors: Iterable[tuple[str, Tensor]], directory: Path, slots: Mapping[str, Slot]) -> None:
    groups = _by_file(slots)
    names = (
        [SINGLE]
        if len(groups) == 1
        else [f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors" for number in range(len(groups))]
    )
    weight_map = {name: file for file, group in zip(names, groups, strict=True) for name in group}
    with ExitStack() as stack:
        files: dict[str, SafetensorsFile] = {}
        for file, group in zip(names, groups, strict=True):
            files[file] = SafetensorsFile(directory / file, group)
            stack.callback(files[file].close)
        for name, tensor in tensors:
            files[weight_map[name]].write(name, tensor.detach().to(slots[name].dtype))
        if missing := [name for file in files.values() for name in file.missing]:
            raise RuntimeError(f"an export lacks {missing[:5]} of {len(missing)} tensors")
    if len(groups) > 1:
        total = sum(slot.nbytes for slot in slots.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2))


def _by_file(slots: Mapping[str, Slot]) -> list[dict[str, Slot]]:
    groups: list[dict[str, Slot]] = [{}]
    size = 0
    for name, slot in slots.items():
        if groups[-1] and size + slot.nbytes > FILE_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = slot
        size += slot.nbytes
    return groups


def _swap(partial: Path, directory: Path) -> None:
    if not directory.exists():
        partial.rename(directory)
        return
    old = partial.with_name(partial.name + ".old")
    directory.rename(old)
    partial.rename(directory)
    shutil.rmtree(old)
