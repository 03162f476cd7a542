"""Rows of tables: Arrow files that are mapped into memory, and parquet files by way of them."""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.lib as palib
import pyarrow.parquet as pq

from trainers.errors import DataInvalid, StorageFailed
from trainers.rollout.data.cache import cache_directory, content_hash, keep, key_of

HELD_BYTES = 1 << 26
"""A parquet file whose rows take no more than this is held in memory; of a larger one a copy is made that can be
mapped, as a row of a parquet file costs reading its whole row group."""
_ROWS_PER_BATCH = 1024
_BATCH_BYTES = 1 << 24


type Parser = Callable[[Any], Any]


class Batches:
    """Rows of record batches, which are small, so that one row is found and converted in constant time."""

    def __init__(self, path: Path, batches: Sequence[Any], identity: str) -> None:
        self._path = path
        self._batches = [batch for batch in batches if batch.num_rows]
        self._parse = parser(pa.struct(self._batches[0].schema)) if self._batches else None
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))
        self.identity = f"{len(self)} rows with hash {identity}"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def where(self, number: int) -> str:
        return f"{self._path} row {number + 1}"

    def read(self, number: int) -> dict[str, Any]:
        place = bisect_right(self._ends, number)
        begin = self._ends[place - 1] if place else 0
        return next(self._rows(self._batches[place].slice(number - begin, 1), number))

    def scan(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        while start < stop:
            place = bisect_right(self._ends, start)
            begin = self._ends[place - 1] if place else 0
            batch = self._batches[place]
            end = min(stop, self._ends[place], start + _rows_at_once(batch.nbytes, batch.num_rows))
            yield from self._rows(batch.slice(start - begin, end - start), start)
            start = end

    def _rows(self, batch: Any, first: int) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(batch.to_pylist(maps_as_pydicts="lossy"), first):
            try:
                yield row if self._parse is None else self._parse(row)
            except ValueError as error:
                raise DataInvalid(f"{self.where(number)}: a value of type JSON is none: {error}") from None


class Saved(Batches):
    """What ``datasets.Dataset.save_to_disk`` wrote."""

    def __init__(self, path: Path) -> None:
        if (path / "dataset_dict.json").is_file():
            splits = sorted(each.name for each in path.iterdir() if each.is_dir())
            raise DataInvalid(f"data.prompt_data {path} holds several splits: take one of {', '.join(splits)}")
        try:
            told = json.loads((path / "state.json").read_text("utf-8"))
            files = [path / each["filename"] for each in told["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError):
            found = sorted(str(each.relative_to(path)) for each in path.rglob("*.parquet"))
            named = f"; list the files that are meant, such as {found[0]}" if found else ""
            raise DataInvalid(
                f"data.prompt_data {path} is a directory, but none that save_to_disk wrote: it has no state.json{named}"
            ) from None
        batches = [batch for file in files for batch in _mapped(file)]
        super().__init__(path, batches, key_of([content_hash(file) for file in files]))


class Parquet(Batches):
    def __init__(self, path: Path) -> None:
        try:
            file: Any = pq.ParquetFile(path, memory_map=True)
        except palib.ArrowInvalid as error:
            raise DataInvalid(f"data.prompt_data {path} is no parquet file: {error}") from None
        identity = content_hash(path)
        try:
            batches = _held(file)
            if batches is None:
                batches = _mapped(_copy_of(file, path, identity))
        except palib.ArrowInvalid as error:
            raise DataInvalid(f"data.prompt_data {path} is a damaged parquet file: {error}") from None
        super().__init__(path, batches, identity)


def parser(kind: Any) -> Parser | None:
    """Parses values of type JSON, which Arrow gives as text, wherever they stand in a value of this type; None: there
    are none. ``datasets`` keeps what differs from row to row that way."""
    if isinstance(kind, pa.JsonType):
        return lambda value: None if value is None else json.loads(value)
    if pa.types.is_struct(kind):
        fields = [(field.name, parse) for field in kind if (parse := parser(field.type)) is not None]
        return _of_fields(fields) if fields else None
    if pa.types.is_map(kind):
        of_each = parser(kind.item_type)
        return of_each and (lambda value: value and {key: of_each(each) for key, each in value.items()})
    if any(is_one(kind) for is_one in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        of_each = parser(kind.value_type)
        return of_each and (lambda value: value and [of_each(each) for each in value])
    return None


def _of_fields(fields: Sequence[tuple[str, Parser]]) -> Parser:
    def parse(value: Any) -> Any:
        return value and value | {name: of_field(value[name]) for name, of_field in fields}

    return parse


def _rows_at_once(num_bytes: int, num_rows: int) -> int:
    return max(1, min(_ROWS_PER_BATCH, _BATCH_BYTES * num_rows // max(num_bytes, 1)))


def _batches_of(file: Any) -> Iterator[Any]:
    """In batches that are small whatever a row holds."""
    metadata = file.metadata
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return file.iter_batches(_rows_at_once(size, metadata.num_rows))


def _held(file: Any) -> list[Any] | None:
    """All of it; None where that is too much. How much cannot be told from the file's metadata: a value that is there
    many times may be stored once."""
    batches: list[Any] = []
    size = 0
    for batch in _batches_of(file):
        batches.append(batch)
        size += batch.nbytes
        if size > HELD_BYTES:
            return None
    return batches


def _mapped(path: Path) -> list[Any]:
    try:
        reader: Any = pa.ipc.open_stream(pa.memory_map(str(path)))
        return list(reader)
    except palib.ArrowInvalid as error:
        raise DataInvalid(f"data.prompt_data {path} is no Arrow file: {error}") from None


def _copy_of(file: Any, path: Path, identity: str) -> Path:
    name = f"{key_of(identity)}.arrow"
    if (kept := cache_directory() / name).is_file():
        return kept

    def write(target: BinaryIO) -> None:
        with pa.ipc.new_stream(target, file.schema_arrow) as stream:
            for batch in _batches_of(file):
                stream.write_batch(batch)

    try:
        return keep(name, write)
    except OSError as error:
        raise StorageFailed(
            f"{path} is read through a copy in {cache_directory()}, which cannot be written: {error.strerror or error};"
            " set ROLLWAY_CACHE to a directory with room for it, or provide a .jsonl file"
        ) from error
