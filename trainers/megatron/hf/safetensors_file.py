"""Writing safetensors tensor by tensor: none is held after it was written, in whatever order they come."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """What a tensor will be."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsFile:
    """One file. ``close`` it when every slot was written."""

    def __init__(self, path: Path, slots: Mapping[str, Slot]):
        """Raises OSError. The file has its full length from the start, so that a full disk shows early."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._slots, self._offsets, end = dict(slots), dict[str, int](), 0
        for name, slot in slots.items():
            self._offsets[name] = end
            header[name] = {
                "dtype": _NAMES[slot.dtype],
                "shape": list(slot.shape),
                "data_offsets": [end, end + slot.nbytes],
            }
            end += slot.nbytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._start = 8 + len(text)
        self._file: BufferedRandom = path.open("w+b")
        try:
            self._file.write(len(text).to_bytes(8, "little") + text)
            self._file.truncate(self._start + end)
        except OSError:
            self._file.close()
            raise

    def write(self, name: str, tensor: Tensor) -> None:
        """Each once. Raises ValueError for a tensor that the slot is not for, and OSError."""
        slot = self._slots.pop(name)
        if (tuple(tensor.shape), tensor.dtype) != (slot.shape, slot.dtype):
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {slot.dtype} {slot.shape}")
        self._file.seek(self._start + self._offsets[name])
        self._file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)

    @property
    def missing(self) -> Sequence[str]:
        return list(self._slots)

    def close(self) -> None:
        self._file.close()
