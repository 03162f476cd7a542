"""A Hugging Face directory, written whole or not at all."""

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trainers.errors import StorageFailed
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.layout import layout
from trainers.megatron.hf.load import INDEX, SINGLE, SafetensorsDirectory, untrained_names

FILE_BYTES = 4 << 30


def export_hf(model: HFModel, named_tensors: Iterable[tuple[str, Tensor]], directory: Path) -> Path:
    """Write weights in the dtype of the model's config, its config and its tokenizer files to ``directory``, and with
    them the tensors of the model's own directory that are not trained.

    ``named_tensors`` is always read to its end: other ranks take part in producing it. What was in ``directory`` is
    replaced in one step. Raises StorageFailed, naming the directory; nothing half-written is left under its name.
    """
    tensors = iter(named_tensors)
    partial = directory.parent / f".{directory.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        _copy_companions(model.directory, partial)
        with ExitStack() as stack:
            has_weights = any((model.directory / name).is_file() for name in (INDEX, SINGLE))
            originals = stack.enter_context(SafetensorsDirectory(model.directory)) if has_weights else None
            _write_weights(chain(tensors, _untrained(model, originals)), partial, _dtypes(model, originals))
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


def _untrained(model: HFModel, originals: SafetensorsDirectory | None) -> Iterator[tuple[str, Tensor]]:
    if originals is not None:
        for name in sorted(untrained_names(model, originals.names())):
            yield name, originals.tensor(name)


def _dtypes(model: HFModel, originals: SafetensorsDirectory | None) -> Callable[[str, Tensor], torch.dtype]:
    """What is trained in the config's dtype; the few that are kept in float32, and what is not trained, as they
    were."""
    usual = getattr(torch, model.dtype)
    trained = {part.name: entry.float32 for entry in layout(model) for part in entry.parts}
    stored = originals.names() if originals is not None else set[str]()

    def dtype(name: str, tensor: Tensor) -> torch.dtype:
        if trained.get(name) is False:
            return usual
        return originals.dtype(name) if originals is not None and name in stored else tensor.dtype

    return dtype


def _write_weights(
    tensors: Iterable[tuple[str, Tensor]], directory: Path, dtype: Callable[[str, Tensor], torch.dtype]
) -> None:
    files: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    total = size = 0

    def flush() -> None:
        _save(pending, directory / f"part-{len(files)}")
        files.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        stored = tensor.detach().to("cpu", dtype(name, tensor), copy=True)
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
