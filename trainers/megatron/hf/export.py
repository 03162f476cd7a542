"""A Hugging Face directory, written whole or not at all."""

import json
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trainers.errors import StorageFailed
from trainers.megatron.hf.config import HFModel
from trainers.megatron.hf.load import INDEX, SINGLE

FILE_BYTES = 4 << 30


def export_hf(model: HFModel, named_tensors: Iterable[tuple[str, Tensor]], directory: Path) -> Path:
    """Write weights in the dtype of the model's config, its config and its tokenizer files to ``directory``.

    ``named_tensors`` is always read to its end: other ranks take part in producing it. What was in ``directory`` is
    replaced in one step. Raises StorageFailed, naming the directory; nothing half-written is left under its name.
    """
    tensors = iter(named_tensors)
    partial = directory.parent / f".{directory.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        _copy_companions(model.directory, partial)
        _write_weights(tensors, partial, getattr(torch, model.dtype))
        _swap(partial, directory)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageFailed(f"the Hugging Face export to {directory} failed: {error}") from error
    finally:
        for _ in tensors:
            pass
    return directory


def _copy_companions(source: Path, target: Path) -> None:
    """Everything but the weights: config, generation config, tokenizer, chat template."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in (".json", ".jinja", ".txt", ".model") and path.name != INDEX:
            shutil.copyfile(path, target / path.name)


def _write_weights(tensors: Iterable[tuple[str, Tensor]], directory: Path, dtype: torch.dtype) -> None:
    files: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    total = size = 0

    def flush() -> None:
        _save(pending, directory / f"part-{len(files)}")
        files.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        stored = tensor.detach().to("cpu", dtype, copy=True)
        if pending and size + stored.nbytes > FILE_BYTES:
            flush()
            size = 0
        pending[name] = stored
        size += stored.nbytes
        total += stored.nbytes
    flush()
    if len(files) == 1:
        (directory / "part-0").rename(directory / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files):
        file = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        (directory / f"part-{number}").rename(directory / file)
        weight_map |= dict.fromkeys(names, file)
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2))


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from error


def _swap(partial: Path, directory: Path) -> None:
    if not directory.exists():
        partial.rename(directory)
        return
    old = partial.with_name(partial.name + ".old")
    directory.rename(old)
    partial.rename(directory)
    shutil.rmtree(old)
