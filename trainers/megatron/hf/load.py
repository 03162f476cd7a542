"""Weights from a Hugging Face directory into the ranks' parameters."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from trainers.errors import ModelInvalid
from trainers.megatron.hf.config import HFModel
from trainers.megatron.hf.layout import hf_shapes, layout, shard

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
    model: HFModel,
    parameters: Mapping[str, torch.nn.Parameter],
    *,
    tp_rank: int,
    tp_size: int,
    padded_vocab_size: int,
) -> None:
    """Fill this rank's ``parameters`` (by Megatron's names). Raises ModelInvalid for a tensor that is missing, left
    over or of another shape, and RuntimeError when the layout does not cover the parameters."""
    entries = [entry for entry in layout(model) if entry.megatron in parameters]
    if model.tied and OUTPUT in parameters:  # the last pipeline stage has a copy of the embedding
        [embedding] = [entry for entry in layout(model) if entry.megatron == EMBEDDING]
        entries.append(replace(embedding, megatron=OUTPUT))
    if uncovered := set(parameters) ^ {entry.megatron for entry in entries}:
        raise RuntimeError(f"the layout and the model differ in {sorted(uncovered)}")
    shapes = hf_shapes(model)
    with SafetensorsDirectory(model.directory) as weights:
        _check_names(model, weights.names(), set(shapes))
        for entry in entries:
            tensors = [weights.tensor(name) for name in entry.hf]
            for name, tensor in zip(entry.hf, tensors, strict=True):
                if tuple(tensor.shape) != shapes[name]:
                    raise ModelInvalid(
                        f"{model.directory}: {name} has shape {tuple(tensor.shape)}, "
                        f"config.json asks for {shapes[name]}"
                    )
            parameters[entry.megatron].copy_(
                shard(entry, tensors, model, tp_rank=tp_rank, tp_size=tp_size, padded_vocab_size=padded_vocab_size)
            )


def _check_names(model: HFModel, found: set[str], wanted: set[str]) -> None:
    if missing := wanted - found:
        raise ModelInvalid(f"{model.directory}: the weights lack {_some(missing)}")
    spare = {name for name in found - wanted if not name.endswith("rotary_emb.inv_freq")}
    if model.tied:
        spare.discard("lm_head.weight")
    if spare:
        raise ModelInvalid(
            f"{model.directory}: the weights hold tensors that this architecture has not: {_some(spare)}"
        )


def _some(names: set[str]) -> str:
    listed = ", ".join(sorted(names)[:5])
    return listed if len(names) <= 5 else f"{listed} and {len(names) - 5} more"
