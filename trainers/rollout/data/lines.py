"""Where the lines of a file begin: found once, kept on disk, and mapped into memory from then on."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from trainers.rollout.data.cache import CHUNK, cache_directory, file_key, keep, keep_json, kept_json

_WHITESPACE = np.frombuffer(b" \t\r\n\v\f", np.uint8)
_OFFSET = np.dtype("<u8")


class LineIndex:
    """The lines of a file that are not blank. Memory does not grow with the file: offsets are mapped from disk."""

    def __init__(self, path: Path, starts: NDArray[Any], size: int, digest: str) -> None:
        self.path = path
        self.digest = digest
        """A hash of the file's content."""
        self._starts = starts
        self._size = size
        self._file = path.open("rb")

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read from the cache if the file is still the one that was indexed, else built and kept there; where the
        cache cannot be written, built each time. Raises OSError."""
        with path.open("rb"):  # a directory, a missing file: as the system says it
            size = path.stat().st_size
        key = file_key(path)
        if key is not None and (kept := _kept(key, size)) is not None:
            return cls(path, *kept)
        if key is not None:
            found: list[tuple[int, str]] = []
            try:
                offsets = keep(f"{key}.lines", lambda file: found.append(find_lines(path, file)))
            except OSError as error:
                if error.filename == str(path):
                    raise
            else:
                size, digest = found[0]
                # What marks the offsets as whole comes after them.
                keep_json(f"{key}.lines.json", {"size": size, "bytes": offsets.stat().st_size, "digest": digest})
                return cls(path, _mapped(offsets), size, digest)
        with tempfile.TemporaryFile() as file:
            size, digest = find_lines(path, file)
            file.seek(0)
            return cls(path, np.frombuffer(file.read(), _OFFSET), size, digest)

    def __len__(self) -> int:
        return len(self._starts)

    def offset(self, number: int) -> int:
        return int(self._starts[number])

    def read(self, number: int) -> bytes:
        begin = int(self._starts[number])
        return _line(os.pread(self._file.fileno(), self._end(number) - begin, begin))

    def scan(self, start: int, stop: int) -> Iterator[bytes]:
        """The lines from ``start`` up to ``stop``, faster than one by one."""
        while start < stop:
            begin = int(self._starts[start])
            after = int(np.searchsorted(self._starts[start:stop], np.uint64(begin + CHUNK), side="right")) + start
            block = os.pread(self._file.fileno(), self._end(after - 1) - begin, begin)
            places = [*(int(each) - begin for each in self._starts[start:after]), len(block)]
            for here, there in pairwise(places):
                yield _line(block[here:there])
            start = after

    def line_number(self, number: int) -> int:
        """Counted from 1, blank lines included; reads the file up to there."""
        left, line = self.offset(number), 1
        with self.path.open("rb") as file:
            while left > 0 and (chunk := file.read(min(left, CHUNK))):
                line += chunk.count(b"\n")
                left -= len(chunk)
        return line

    def _end(self, number: int) -> int:
        return int(self._starts[number + 1]) if number + 1 < len(self._starts) else self._size


def find_lines(path: Path, offsets: BinaryIO) -> tuple[int, str]:
    """Write the offsets of the lines that are not blank, as little-endian 64-bit integers; returns the file's size and
    the hash of its content. Memory is bounded by a chunk and the longest line. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    position, pending = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            end = chunk.rfind(b"\n") + 1
            if not end:
                pending += chunk
                continue
            whole = pending + chunk[:end]
            _write(offsets, _starts_in(whole) + position)
            position, pending = position + len(whole), chunk[end:]
    _write(offsets, _starts_in(pending) + position)
    return position + len(pending), digest.hexdigest()


def _starts_in(lines: bytes) -> NDArray[np.int64]:
    """Where the lines that are not blank begin in ``lines``."""
    content = np.frombuffer(lines, np.uint8)
    ends = np.flatnonzero(content == 10)
    starts = np.concatenate([np.zeros(1, np.int64), ends + 1])
    ends = np.append(ends, len(content))
    long_enough = starts < ends
    starts, ends = starts[long_enough], ends[long_enough]
    # Few begin with white space, and only they can be blank.
    suspects = np.flatnonzero(np.isin(content[starts], _WHITESPACE))
    blank = [place for place in suspects if not lines[starts[place] : ends[place]].strip()]
    return np.delete(starts, blank)


def _write(file: BinaryIO, starts: NDArray[np.int64]) -> None:
    file.write(starts.astype(_OFFSET).tobytes())


def _line(raw: bytes) -> bytes:
    # A blank line may stand between two rows: what follows the first line break is not this row's.
    return raw.split(b"\n", 1)[0]


def _kept(key: str, size: int) -> tuple[NDArray[Any], int, str] | None:
    """What is known of this file, if it is whole."""
    known = kept_json(f"{key}.lines.json")
    offsets = cache_directory() / f"{key}.lines"
    try:
        if known is None or known["size"] != size or offsets.stat().st_size != known["bytes"]:
            return None
        return _mapped(offsets), size, known["digest"]
    except (OSError, KeyError):
        return None


def _mapped(offsets: Path) -> NDArray[Any]:
    if offsets.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, _OFFSET)
    # An ordinary view of the mapping: indexing np.memmap itself is slow.
    return np.asarray(np.memmap(offsets, _OFFSET, mode="r")).view(np.ndarray)
