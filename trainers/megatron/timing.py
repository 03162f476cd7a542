"""Where a rollout's training time went, and how well the device was used."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from trainers.megatron.device import DeviceType

PEAK_FLOPS: dict[str, float] = {
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
}
"""Dense bfloat16, from NVIDIA's data sheets, by a word of the device's name."""


@dataclass(slots=True)
class Timing:
    """Adds up the seconds of named parts. On a GPU they are marked in its stream, as a wait at the end of each part
    would keep the next one's kernels from being ready in time."""

    device: DeviceType
    spent: dict[str, float] = field(default_factory=dict[str, float])
    _marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list[Any])

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if self.device == "cpu":
            begin = time.perf_counter()
            yield
            self._add(part, time.perf_counter() - begin)
        else:
            begins, ends = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begins.record()
            yield
            ends.record()
            self._marks.append((part, begins, ends))

    def take(self) -> dict[str, float]:
        """``time/<part>_s`` since the last time; waits for the GPU."""
        for part, begins, ends in self._marks:
            ends.synchronize()
            self._add(part, begins.elapsed_time(ends) / 1e3)
        spent, self.spent, self._marks = self.spent, {}, []
        return {f"time/{part}_s": seconds for part, seconds in spent.items()}

    def _add(self, part: str, seconds: float) -> None:
        self.spent[part] = self.spent.get(part, 0.0) + seconds


def peak_flops(dtype: str) -> float | None:
    """Of this rank's device; None where it is not known."""
    if dtype != "bfloat16" or not torch.cuda.is_available():
        return None
    words = torch.cuda.get_device_name().replace("-", " ").split()
    return next((PEAK_FLOPS[word] for word in words if word in PEAK_FLOPS), None)
