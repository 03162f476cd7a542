"""Where a rollout's training time went, and how well the device was used."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

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
    """Adds up the seconds of named parts."""

    spent: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.spent[part] = self.spent.get(part, 0.0) + time.perf_counter() - begin

    def take(self) -> dict[str, float]:
        """``time/<part>_s`` since the last time."""
        spent, self.spent = self.spent, {}
        return {f"time/{part}_s": seconds for part, seconds in spent.items()}


def peak_flops(dtype: str) -> float | None:
    """Of this rank's device; None where it is not known."""
    if dtype != "bfloat16" or not torch.cuda.is_available():
        return None
    words = torch.cuda.get_device_name().replace("-", " ").split()
    return next((PEAK_FLOPS[word] for word in words if word in PEAK_FLOPS), None)
