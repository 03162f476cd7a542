"""The tensors of a ``torch_dist`` checkpoint, written and read one after the other.

The format is torch's distributed checkpoint: a pickled index of every tensor's chunks, and files of chunks.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner, create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from trainers.errors import CheckpointInvalid
from trainers.megatron.convert.skeleton import Place

COMMON_STATE = "common_state/shard_0_1"
"""Where Megatron keeps what is no tensor."""


class _Lazy(DefaultSavePlanner):
    """Makes each tensor when it is its turn to be written."""

    def __init__(self, tensors: Mapping[MetadataIndex, Callable[[], Tensor]], objects: Mapping[str, Any]):
        super().__init__()
        self._tensors, self._objects = tensors, objects

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        if write_item.type is not WriteItemType.BYTE_IO:
            return self._tensors[write_item.index]()
        stream = io.BytesIO()
        torch.save([self._objects[write_item.index.fqn]], stream)
        return stream


def write_checkpoint(
    path: Path, places: Iterable[tuple[Place, torch.dtype, Callable[[], Tensor]]], objects: Mapping[str, Any]
) -> None:
    """Write to ``path``, a directory that is there. Each tensor is asked for once, when it is written, in the order of
    ``places``. Raises OSError."""
    items: list[WriteItem] = []
    tensors: dict[MetadataIndex, Callable[[], Tensor]] = {}
    for place, dtype, make in places:
        index = MetadataIndex(place.key, place.start)
        chunk = ChunkStorageMetadata(torch.Size(place.start), torch.Size(place.shape))
        data = TensorWriteData(chunk, TensorProperties(dtype=dtype), torch.Size(place.size))
        items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        tensors[index] = make
    items += [WriteItem(MetadataIndex(key), WriteItemType.BYTE_IO) for key in objects]
    writer = FileSystemWriter(path, single_file_per_rank=True, thread_count=1)
    writer.set_up_storage_writer(is_coordinator=True)
    plan = writer.prepare_local_plan(SavePlan(items))
    [plan], metadata = create_default_global_save_plan([plan])
    [plan] = writer.prepare_global_plan([plan])
    with ThreadPoolExecutor(1) as pool:  # torch's writer waits on its future
        results = pool.submit(lambda: writer.write_data(plan, _Lazy(tensors, objects)).wait()).result()
    writer.finish(metadata, [results])
    save_config(CheckpointingConfig("torch_dist", 1), str(path))


class CheckpointFile:
    """Reads any part of any tensor. A context manager."""

    def __init__(self, path: Path):
        """Raises CheckpointInvalid."""
        self._path = path
        if not (path / "metadata.json").is_file():
            raise CheckpointInvalid(
                f"{path} is no checkpoint of format torch_dist: only those can be converted, whatever their layout"
            )
        try:
            self._metadata: Metadata = FileSystemReader(path).read_metadata()
        except (OSError, ValueError, EOFError, AttributeError, ModuleNotFoundError) as error:
            raise CheckpointInvalid(f"{path} has no readable index: {error}") from error
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> "CheckpointFile":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def dtype(self, key: str) -> torch.dtype:
        return self._tensor(key).properties.dtype

    def read(self, place: Place) -> Tensor:
        """[*place.shape]. Where a padded tensor is stored shorter, the rest is 0. Raises CheckpointInvalid for a tensor
        that is missing, of another shape or not wholly there."""
        stored = self._tensor(place.key)
        size = tuple(stored.size)
        if size[1:] != place.size[1:] or (size[0] != place.size[0] and not place.is_padded):
            raise CheckpointInvalid(f"{self._path}: {place.key} has shape {size}, the model's has {place.size}")
        result = torch.zeros(place.shape, dtype=stored.properties.dtype)
        found = 0
        for chunk in stored.chunks:
            starts = [max(a, b) for a, b in zip(chunk.offsets, place.start, strict=True)]
            ends = [
                min(a + n, b + m)
                for a, n, b, m in zip(chunk.offsets, chunk.sizes, place.start, place.shape, strict=True)
            ]
            if any(end <= start for start, end in zip(starts, ends, strict=True)):
                continue
            into = tuple(slice(s - b, e - b) for s, e, b in zip(starts, ends, place.start, strict=True))
            out_of = tuple(slice(s - a, e - a) for s, e, a in zip(starts, ends, chunk.offsets, strict=True))
            result[into] = self._chunk(MetadataIndex(place.key, chunk.offsets))[out_of]
            found += math.prod(e - s for s, e in zip(starts, ends, strict=True))
        wanted = math.prod(place.shape[1:]) * max(0, min(place.start[0] + place.shape[0], size[0]) - place.start[0])
        if found != wanted:
            raise CheckpointInvalid(f"{self._path}: {place.key} is not whole: {found} of {wanted} numbers are there")
        return result

    def _tensor(self, key: str) -> TensorStorageMetadata:
        found: TensorStorageMetadata | BytesStorageMetadata | None = self._metadata.state_dict_metadata.get(key)
        if not isinstance(found, TensorStorageMetadata):
            raise CheckpointInvalid(f"{self._path}: the checkpoint has no tensor {key}: it is of another model")
        return found

    def _chunk(self, index: MetadataIndex) -> Tensor:
        assert self._metadata.storage_data is not None
        info = self._metadata.storage_data[index]
        try:
            if info.relative_path not in self._files:
                self._files[info.relative_path] = (self._path / info.relative_path).open("rb")
            file = self._files[info.relative_path]
            file.seek(info.offset)
            return torch.load(io.BytesIO(file.read(info.length)), map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise CheckpointInvalid(f"{self._path / info.relative_path} cannot be read: {error}") from error
