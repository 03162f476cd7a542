"""A reward that pays for being close: 1 for the right sum, up to a half for a number near it, 0 for anything else."""

from engines.types import Sample


def reward(sample: Sample) -> float:
    text = sample.response.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 4):
        return 0.0
    distance = abs(int(text) - int(sample.label))
    return 1.0 if distance == 0 else 0.5 / (1 + distance)
