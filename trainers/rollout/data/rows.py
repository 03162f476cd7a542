"""Rows of a file by number, in constant time and without holding the file in memory."""

import json
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainers.errors import DataInvalid
from trainers.rollout.data.lines import LineIndex

_SLICE = re.compile(r"^(?P<path>.+)@\[(?P<start>-?\d*):(?P<end>-?\d*)\]$")
_HELD_ROW_GROUPS = 4


class Rows(Protocol):
    def __len__(self) -> int: ...

    def where(self, number: int) -> str:
        """The place of a row, for an error: the file, and the line or row in it."""
        ...

    def read(self, number: int) -> dict[str, Any]:
        """Raises DataInvalid, which names the place, for what is no object."""
        ...

    @property
    def identity(self) -> str:
        """Changes when the content does."""
        ...


def open_rows(paths: Sequence[str]) -> Rows:
    """The rows of one path, or of several one after the other. Raises DataInvalid, which names the path."""
    opened = [_open_one(path) for path in paths]
    return opened[0] if len(opened) == 1 else Joined(opened)


def _open_one(text: str) -> Rows:
    match = _SLICE.match(text)
    path = Path(match["path"] if match else text)
    rows = _open_whole(path)
    if match is None:
        return rows
    start, end = (int(match[name]) if match[name] not in ("", "-") else None for name in ("start", "end"))
    return Part(rows, range(len(rows))[start:end])


def _open_whole(path: Path) -> Rows:
    try:
        if path.suffix == ".jsonl":
            return JsonLines(path)
        if path.suffix == ".json":
            return JsonArray(path)
        if path.suffix == ".parquet":
            return Parquet(path)
        if path.is_dir():
            return Saved(path)
    except OSError as error:
        raise DataInvalid(f"data.prompt_data {path} cannot be read: {error.strerror or error}") from error
    raise DataInvalid(
        f"data.prompt_data {path} must be a .jsonl, .json or .parquet file, or a directory written by save_to_disk"
    )


class JsonLines:
    """One JSON object a line; blank lines are none."""

    def __init__(self, path: Path) -> None:
        self._index = LineIndex.of(path)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def identity(self) -> str:
        return self._index.identity

    def where(self, number: int) -> str:
        return f"{self._index.path} line {self._index.line_number(number)}"

    def read(self, number: int) -> dict[str, Any]:
        raw = self._index.read(number)
        try:
            # A byte order mark may stand at the beginning of a file.
            text = raw.decode("utf-8-sig" if self._index.offset(number) == 0 else "utf-8")
            content: Any = json.loads(text, parse_constant=_no_constant)
        except UnicodeDecodeError as error:
            raise DataInvalid(f"{self.where(number)}: not UTF-8 at byte {error.start + 1}") from None
        except json.JSONDecodeError as error:
            raise DataInvalid(f"{self.where(number)}: not JSON at column {error.colno}: {error.msg}") from None
        except ValueError as error:
            raise DataInvalid(f"{self.where(number)}: not JSON: {error}") from None
        except RecursionError:
            raise DataInvalid(f"{self.where(number)}: JSON nested too deeply") from None
        if not isinstance(content, dict):  # only then: finding the line's number takes reading the file up to there
            raise DataInvalid(f"{self.where(number)}: a JSON {json_name(content)}, expected an object")
        return content


class JsonArray:
    """A JSON array of objects; such a file can only be read whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            content: Any = json.loads(path.read_text("utf-8-sig"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise DataInvalid(f"data.prompt_data {path} is not JSON: {error}") from None
        if not isinstance(content, list):
            raise DataInvalid(
                f"data.prompt_data {path} is a JSON {json_name(content)}, expected an array of objects; one object a "
                "line is a .jsonl file"
            )
        self._rows: list[Any] = content
        self.identity = f"{len(content)} rows, {path.stat().st_size} bytes"

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, number: int) -> str:
        return f"{self._path} row {number + 1}"

    def read(self, number: int) -> dict[str, Any]:
        return _object(self._rows[number], self.where(number))


class Parquet:
    """Reads the row group that a row is in, and keeps the last few."""

    def __init__(self, path: Path) -> None:
        import pyarrow.lib
        import pyarrow.parquet as parquet

        self._path = path
        try:
            self._file: Any = parquet.ParquetFile(path, memory_map=True)
        except pyarrow.lib.ArrowInvalid as error:
            raise DataInvalid(f"data.prompt_data {path} is no parquet file: {error}") from None
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self._held: OrderedDict[int, Any] = OrderedDict()
        self.identity = f"{metadata.num_rows} rows, {path.stat().st_size} bytes"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def where(self, number: int) -> str:
        return f"{self._path} row {number + 1}"

    def read(self, number: int) -> dict[str, Any]:
        group = bisect_right(self._ends, number)
        table = self._held.pop(group, None)
        if table is None:
            table = self._file.read_row_group(group)
        self._held[group] = table
        if len(self._held) > _HELD_ROW_GROUPS:
            self._held.popitem(last=False)
        begin = self._ends[group - 1] if group else 0
        return table.slice(number - begin, 1).to_pylist()[0]


class Saved:
    """What ``datasets.Dataset.save_to_disk`` wrote: Arrow files, mapped into memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._path = path
        if (path / "dataset_dict.json").is_file():
            splits = sorted(each.name for each in path.iterdir() if each.is_dir())
            raise DataInvalid(f"data.prompt_data {path} holds several splits: take one of {', '.join(splits)}")
        try:
            names = [each["filename"] for each in json.loads((path / "state.json").read_text())["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise DataInvalid(
                f"data.prompt_data {path} is a directory, but none that save_to_disk wrote: it has no state.json"
            ) from None
        tables: list[Any] = [pa.ipc.open_stream(pa.memory_map(str(path / name))).read_all() for name in names]
        self._table: Any = pa.concat_tables(tables)
        self.identity = f"{self._table.num_rows} rows, {sum((path / name).stat().st_size for name in names)} bytes"

    def __len__(self) -> int:
        return self._table.num_rows

    def where(self, number: int) -> str:
        return f"{self._path} row {number + 1}"

    def read(self, number: int) -> dict[str, Any]:
        return self._table.slice(number, 1).to_pylist()[0]


class Part:
    """Some rows of others."""

    def __init__(self, rows: Rows, numbers: range) -> None:
        self._rows = rows
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def identity(self) -> str:
        return f"{self._rows.identity}, {self._numbers}"

    def where(self, number: int) -> str:
        return self._rows.where(self._numbers[number])

    def read(self, number: int) -> dict[str, Any]:
        return self._rows.read(self._numbers[number])


class Joined:
    """Several, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def identity(self) -> str:
        return "; ".join(part.identity for part in self._parts)

    def where(self, number: int) -> str:
        part, own = self._find(number)
        return part.where(own)

    def read(self, number: int) -> dict[str, Any]:
        part, own = self._find(number)
        return part.read(own)

    def _find(self, number: int) -> tuple[Rows, int]:
        place = int(np.searchsorted(self._ends, number, side="right"))
        return self._parts[place], number - (int(self._ends[place - 1]) if place else 0)


def json_name(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)


def _object(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataInvalid(f"{where}: a JSON {json_name(content)}, expected an object")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
