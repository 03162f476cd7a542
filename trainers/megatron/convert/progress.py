"""How far a conversion is, a line at a time."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

EVERY_S = 2.0

type Tell = Callable[[str], None]


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass(slots=True)
class Progress:
    """Tells it at most every few seconds, and once at the end."""

    what: str
    tensors: int
    tell: Tell
    done: int = 0
    nbytes: int = 0
    _said: float = field(default_factory=time.monotonic)

    def add(self, nbytes: int) -> None:
        self.done += 1
        self.nbytes += nbytes
        if self.done == self.tensors or time.monotonic() - self._said > EVERY_S:
            self._said = time.monotonic()
            self.tell(f"{self.what}: {self.done} of {self.tensors} parameters, {self.nbytes / 2**30:.2f} GiB")
