"""Where the lines of a file begin: found once, kept on disk, and mapped into memory from then on."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 26
_WHITESPACE = b" \t\r\n\v\f"


def cache_directory() -> Path:
    """``$ROLLWAY_CACHE/index``, or below the user's cache directory."""
    own = os.environ.get("ROLLWAY_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rollway"
    return base / "index"


class LineIndex:
    """The lines of a file that are not blank. Memory does not grow with the file: offsets are mapped from disk."""

    def __init__(self, path: Path, starts: NDArray[np.uint64], size: int) -> None:
        self.path = path
        self._starts = starts
        self._size = size
        self._file = path.open("rb")
        self.identity = f"{len(starts)} lines, {size} bytes, {_ends_of(path, size)}"

    @classmethod
    def of(cls, path: Path) -> "LineIndex":
        """Read from the cache if the file is still the one that was indexed, else built and kept there; where the
        cache cannot be written, built each time. Raises OSError."""
        with path.open("rb"):  # a directory, a missing file: as the system says it
            stat = path.stat()
        key = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:32]
        kept = cache_directory() / f"{key}.npy"
        try:
            return cls(path, np.load(kept, mmap_mode="r"), stat.st_size)
        except (OSError, ValueError):
            pass  # none yet, or cut short by a full disk
        starts = find_lines(path)
        try:
            _write(kept, starts)
            starts = np.load(kept, mmap_mode="r")
        except OSError:
            pass
        return cls(path, starts, stat.st_size)

    def __len__(self) -> int:
        return len(self._starts)

    def offset(self, number: int) -> int:
        return int(self._starts[number])

    def read(self, number: int) -> bytes:
        begin = int(self._starts[number])
        end = int(self._starts[number + 1]) if number + 1 < len(self._starts) else self._size
        # A blank line may stand between two rows: what follows the first line break is not this row's.
        return os.pread(self._file.fileno(), end - begin, begin).split(b"\n", 1)[0]

    def line_number(self, number: int) -> int:
        """Counted from 1, blank lines included; reads the file up to there."""
        left, line = self.offset(number), 1
        with self.path.open("rb") as file:
            while left > 0 and (chunk := file.read(min(left, _CHUNK))):
                line += chunk.count(b"\n")
                left -= len(chunk)
        return line


def find_lines(path: Path) -> NDArray[np.uint64]:
    """Offsets of the lines that are not blank, found chunk by chunk."""
    parts: list[NDArray[np.uint64]] = [np.zeros(1, np.uint64)]
    position = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            breaks = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10)
            parts.append((breaks + (position + 1)).astype(np.uint64))
            position += len(chunk)
    starts = np.concatenate(parts)
    starts = starts[starts < position]
    with path.open("rb") as file:
        blank = [place for place in _suspects(file, starts, position) if _is_blank(file, starts, place, position)]
    return np.delete(starts, blank)


def _suspects(file: Any, starts: NDArray[np.uint64], size: int) -> NDArray[np.intp]:
    """Lines whose first byte is white space: few, and the only ones that can be blank."""
    found: list[NDArray[np.intp]] = []
    for begin in range(0, size, _CHUNK):
        file.seek(begin)
        chunk = np.frombuffer(file.read(_CHUNK), np.uint8)
        low, high = np.searchsorted(starts, [begin, begin + len(chunk)])
        first = chunk[(starts[low:high] - np.uint64(begin)).astype(np.intp)]
        found.append(np.flatnonzero(np.isin(first, np.frombuffer(_WHITESPACE, np.uint8))) + low)
    return np.concatenate(found) if found else np.empty(0, np.intp)


def _is_blank(file: Any, starts: NDArray[np.uint64], place: int, size: int) -> bool:
    end = int(starts[place + 1]) if place + 1 < len(starts) else size
    file.seek(int(starts[place]))
    return not file.read(end - int(starts[place])).strip()


def _ends_of(path: Path, size: int) -> str:
    """A hash of the file's first and last bytes: a copy has the same, another file hardly ever."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
        file.seek(max(0, size - (1 << 16)))
        return hashlib.sha256(head + file.read()).hexdigest()[:16]


def _write(target: Path, starts: NDArray[np.uint64]) -> None:
    """Whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".partial", delete=False) as file:
        try:
            np.save(file, starts)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink()
            raise
