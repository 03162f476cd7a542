"""Rows of a file by number, in constant time and without holding the file in memory."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainers.errors import DataInvalid
from trainers.rollout.data.cache import content_hash
from trainers.rollout.data.lines import LineIndex

_SLICE = re.compile(r"^(?P<path>.+)@\[(?P<start>-?\d+)?:(?P<end>-?\d+)?\]$")


class Rows(Protocol):
    def __len__(self) -> int: ...

    def where(self, number: int) -> str:
        """The place of a row, for an error: the file, and the line or row in it. It may take reading up to there."""
        ...

    def read(self, number: int) -> dict[str, Any]:
        """Raises DataInvalid, which names the place, for what is no object."""
        ...

    def scan(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """The rows from ``start`` up to ``stop``, faster than one by one. Raises as :meth:`read` does."""
        ...

    @property
    def identity(self) -> str:
        """Changes when the content does, and only then: a copy elsewhere has the same."""
        ...


def open_rows(paths: Sequence[str]) -> Rows:
    """The rows of one path, or of several one after the other. Raises DataInvalid, which names the path."""
    opened = [_open_one(path) for path in paths]
    return opened[0] if len(opened) == 1 else Joined(opened)


def _open_one(text: str) -> Rows:
    match = _SLICE.match(text)
    if match is None and text.endswith("]") and "@[" in text:
        raise DataInvalid(f"data.prompt_data {text}: a part of the rows is written path@[start:end]")
    rows = _open_whole(Path(match["path"] if match else text))
    if match is None:
        return rows
    start, end = (int(match[name]) if match[name] else None for name in ("start", "end"))
    numbers = range(len(rows))[start:end]
    if not numbers:
        raise DataInvalid(f"data.prompt_data {text} has no row: the file has {len(rows)}")
    return Part(rows, numbers)


def _open_whole(path: Path) -> Rows:
    try:
        if path.suffix == ".jsonl":
            return JsonLines(path)
        if path.suffix == ".json":
            return JsonArray(path)
        if path.suffix == ".parquet" or path.is_dir():
            from trainers.rollout.data.tables import Parquet, Saved  # pyarrow takes long to import

            return Parquet(path) if path.suffix == ".parquet" else Saved(path)
    except OSError as error:
        raise DataInvalid(f"data.prompt_data {path} cannot be read: {error.strerror or error}") from error
    raise DataInvalid(
        f"data.prompt_data {path} must be a .jsonl, .json or .parquet file, or a directory written by save_to_disk"
    )


class JsonLines:
    """One JSON object a line; blank lines are none."""

    def __init__(self, path: Path) -> None:
        self._index = LineIndex.of(path)
        self.identity = f"{len(self._index)} lines with hash {self._index.digest}"

    def __len__(self) -> int:
        return len(self._index)

    def where(self, number: int) -> str:
        return f"{self._index.path} line {self._index.line_number(number)}"

    def read(self, number: int) -> dict[str, Any]:
        return self._parse(self._index.read(number), number)

    def scan(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        for number, raw in enumerate(self._index.scan(start, stop), start):
            yield self._parse(raw, number)

    def _parse(self, raw: bytes, number: int) -> dict[str, Any]:
        try:
            # A byte order mark may stand at the beginning of a file.
            text = raw.decode("utf-8-sig" if number == 0 else "utf-8")
            content: Any = json.loads(text, parse_constant=no_constant)
        except UnicodeDecodeError as error:
            raise DataInvalid(f"{self.where(number)}: not UTF-8 at byte {error.start + 1}") from None
        except json.JSONDecodeError as error:
            raise DataInvalid(f"{self.where(number)}: not JSON at column {error.colno}: {error.msg}") from None
        except ValueError as error:
            raise DataInvalid(f"{self.where(number)}: not JSON: {error}") from None
        except RecursionError:
            raise DataInvalid(f"{self.where(number)}: JSON nested too deeply") from None
        if not isinstance(content, dict):
            raise DataInvalid(f"{self.where(number)}: a JSON {json_name(content)}, expected an object")
        return content


class JsonArray:
    """A JSON array of objects; such a file can only be read whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            content: Any = json.loads(path.read_text("utf-8-sig"), parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            lines = ": a file of one object a line is named .jsonl" if "Extra data" in str(error) else ""
            raise DataInvalid(f"data.prompt_data {path} is not JSON: {error}{lines}") from None
        if not isinstance(content, list):
            raise DataInvalid(
                f"data.prompt_data {path} is a JSON {json_name(content)}, expected an array of objects; one object a "
                "line is a .jsonl file"
            )
        self._rows: list[Any] = content
        self.identity = f"{len(content)} rows with hash {content_hash(path)}"

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, number: int) -> str:
        return f"{self._path} row {number + 1}"

    def read(self, number: int) -> dict[str, Any]:
        content = self._rows[number]
        if not isinstance(content, dict):
            raise DataInvalid(f"{self.where(number)}: a JSON {json_name(content)}, expected an object")
        return content

    def scan(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        return map(self.read, range(start, stop))


class Part:
    """Some rows of others, one after the other."""

    def __init__(self, rows: Rows, numbers: range) -> None:
        self._rows = rows
        self._numbers = numbers
        self.identity = f"{rows.identity}, of which {numbers.start} to {numbers.stop}"

    def __len__(self) -> int:
        return len(self._numbers)

    def where(self, number: int) -> str:
        return self._rows.where(self._numbers[number])

    def read(self, number: int) -> dict[str, Any]:
        return self._rows.read(self._numbers[number])

    def scan(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        numbers = self._numbers[start:stop]
        return self._rows.scan(numbers.start, numbers.stop)


class Joined:
    """Several, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.identity = "; ".join(part.identity for part in parts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def where(self, number: int) -> str:
        part, own = self._find(number)
        return part.where(own)

    def read(self, number: int) -> dict[str, Any]:
        part, own = self._find(number)
        return part.read(own)

    def scan(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        while start < stop:
            part, own = self._find(start)
            count = min(stop - start, len(part) - own)
            yield from part.scan(own, own + count)
            start += count

    def _find(self, number: int) -> tuple[Rows, int]:
        place = int(np.searchsorted(self._ends, number, side="right"))
        return self._parts[place], number - (int(self._ends[place - 1]) if place else 0)


def json_name(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
