"""Weights from a Hugging Face directory into the ranks' parameters."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainers.errors import ModelInvalid
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.layout import Entry, Position, hf_shapes, layout, shard

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"


class SafetensorsDirectory:
    """The tensors of one or many files, read when asked for. A context manager."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._files: dict[str, Any] = {}
        self._file_of: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "SafetensorsDirectory":
        index = self._directory / INDEX
        try:
            if index.is_file():
                self._file_of = json.loads(index.read_text())["weight_map"]
            else:
                self._file_of = dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
        except (OSError, ValueError, KeyError) as error:
            raise ModelInvalid(f"model.hf_checkpoint: {index}: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def names(self) -> set[str]:
        return set(self._file_of)

    def tensor(self, name: str) -> torch.Tensor:
        return self._open(self._file_of[name]).get_tensor(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._open(self._file_of[name]).get_slice(name)[:0].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._open(self._file_of[name]).get_slice(name).get_shape())

    def _open(self, file: str) -> Any:
        if file not in self._files:
            path = self._directory / file
            try:
                self._files[file] = self._stack.enter_context(safe_open(path, framework="pt"))
            except FileNotFoundError as error:
                raise ModelInvalid(
                    f"model.hf_checkpoint: {path} is missing: weights are read from safetensors"
                ) from error
            except (OSError, SafetensorError) as error:
                raise ModelInvalid(f"model.hf_checkpoint: {path} cannot be read: {error}") from error
        return self._files[file]


@torch.no_grad()
def load_hf(
    model: HFModel, parameters: Mapping[str, Tensor], *, position: Position | None = None, padded_vocab_size: int
) -> None:
    """Fill this rank's ``parameters`` (by the whole model's names). Raises ModelInvalid for a tensor that is missing,
    left over or of another shape, and RuntimeError when the layout does not cover the parameters."""
    entries = [entry for entry in layout(model) if entry.megatron in parameters]
    if model.tied and OUTPUT in parameters:  # the last pipeline stage has a copy of the embedding
        [embedding] = [entry for entry in layout(model) if entry.megatron == EMBEDDING]
        entries.append(replace(embedding, megatron=OUTPUT))
    if uncovered := set(parameters) ^ {entry.megatron for entry in entries}:
        raise RuntimeError(f"the layout and the model differ in {sorted(uncovered)}")
    position = position or Position()
    with SafetensorsDirectory(model.directory) as weights:
        check_names(model, weights.names())
        for entry in entries:
            rank, size = position.of(entry)
            tensors = read_entry(model, entry, weights)
            whole = shard(entry, tensors, model, rank=rank, size=size, padded_vocab_size=padded_vocab_size)
            parameters[entry.megatron].copy_(whole)


def read_entry(model: HFModel, entry: Entry, weights: SafetensorsDirectory) -> list[Tensor]:
    """The entry's tensors. Raises ModelInvalid for one of another shape."""
    tensors = [weights.tensor(name) for name in entry.hf]
    for part, tensor in zip(entry.parts, tensors, strict=True):
        if tuple(tensor.shape) != part.shape:
            raise ModelInvalid(
                f"{model.directory}: {part.name} has shape {tuple(tensor.shape)}, config.json asks for {part.shape}"
            )
    return tensors


def check_names(model: HFModel, found: set[str]) -> None:
    """Raises ModelInvalid for a tensor that is missing, or that the architecture has not."""
    wanted = set(hf_shapes(model))
    if missing := wanted - found:
        raise ModelInvalid(f"{model.directory}: the weights lack {_some(missing)}")
    spare = found - wanted - untrained_names(model, found)
    spare = {name for name in spare if not name.endswith("rotary_emb.inv_freq")}
    if model.tied:
        spare.discard("lm_head.weight")
    if spare:
        raise ModelInvalid(
            f"{model.directory}: the weights hold tensors that this architecture has not: {_some(spare)}"
        )


def untrained_names(model: HFModel, found: set[str]) -> set[str]:
    """Of layers after the last, which predict further tokens: they are not trained, and kept as they are."""
    return {
        name
        for name in found
        if (number := name.removeprefix("model.layers.").partition(".")[0]).isdecimal()
        and name.startswith("model.layers.")
        and int(number) >= model.num_layers
    }


def _some(names: set[str]) -> str:
    listed = ", ".join(sorted(names)[:5])
    return listed if len(names) <= 5 else f"{listed} and {len(names) - 5} more"
