"""Samples as JSON that gives back the same samples: every token, every float bit for bit, every type.

What a response holds per token is packed as arrays (compressed, base64): a thousand samples of ten thousand tokens are
some tens of megabytes, not hundreds. Labels and metadata are the user's, and may hold what JSON has no word for:
those values are written as ``{"$<kind>": …}``. Of subclasses of str, int and float, the value comes back.
"""

import base64
import dataclasses
import datetime
import decimal
import zlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from engines.types import Sample, SampleStatus

VERSION = 1
_FIELDS = {field.name for field in dataclasses.fields(Sample)}
_INTEGERS = ("tokens", "loss_mask", "weight_versions")
_COUNTS = ("index", "group_index", "response_length", "trajectory_index")
_FREE = ("prompt", "label", "metadata", "reward")
_DTYPES = {"|i1", "<i2", "<i4", "<i8", "<f8"}

type Json = Any

# From a value to JSON and back. Sets are sorted by their text, so that equal ones are written equally.
_KINDS: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tuple": (tuple, list, tuple),
    "set": (set, lambda value: sorted(value, key=repr), set),
    "frozenset": (frozenset, lambda value: sorted(value, key=repr), frozenset),
    "bytes": (bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
}


def encode_groups(groups: Sequence[Sequence[Sample]]) -> dict[str, Json]:
    """Raises TypeError, which names the sample and the place in it, for a value that would not come back as it is."""
    return {"version": VERSION, "groups": [[encode(sample) for sample in group] for group in groups]}


def decode_groups(encoded: dict[str, Json]) -> list[list[Sample]]:
    """Raises ValueError for what :func:`encode_groups` did not write."""
    try:
        if encoded["version"] != VERSION:
            raise ValueError(f"samples of version {encoded['version']}, expected {VERSION}")
        return [[decode(fields) for fields in group] for group in encoded["groups"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no encoded samples: {type(error).__name__}: {error}") from error


def encode(sample: Sample) -> dict[str, Json]:
    """One sample. Raises TypeError, which names the place."""
    fields: dict[str, Json] = {name: getattr(sample, name) for name in _FIELDS}
    for name in _INTEGERS:
        fields[name] = _pack_integers(fields[name], f"sample {sample.index}: {name}")
    try:
        fields["rollout_log_probs"] = _pack(np.asarray(sample.rollout_log_probs, "<f8"))
    except (ValueError, TypeError) as error:
        raise TypeError(f"sample {sample.index}: rollout_log_probs: {error}") from None
    for name in _FREE:
        fields[name] = _to_json(fields[name], f"sample {sample.index}: {name}")
    fields["status"] = sample.status.value
    return fields


def decode(fields: dict[str, Json]) -> Sample:
    """One sample. Raises ValueError for what :func:`encode` did not write."""
    if set(fields) != _FIELDS:
        raise ValueError(f"no encoded sample: its fields differ in {', '.join(sorted(set(fields) ^ _FIELDS))}")
    told = dict(fields)
    try:
        for name in (*_INTEGERS, "rollout_log_probs"):
            told[name] = _unpack(told[name]).tolist()
        for name in _FREE:
            told[name] = _from_json(told[name])
        told["status"] = SampleStatus(told["status"])
    except (KeyError, TypeError, AttributeError, ArithmeticError, zlib.error) as error:
        raise ValueError(f"no encoded sample: {type(error).__name__}: {error}") from error
    return Sample(**told)


def check_encodable(sample: Sample) -> None:
    """Raises TypeError, which names the place, for a sample that :func:`encode` would refuse; cheaper than that."""
    for name in _FREE:
        _to_json(getattr(sample, name), f"sample {sample.index}: {name}")


def _pack_integers(values: Sequence[int], where: str) -> str:
    try:
        array = np.asarray(values, np.int64)
    except (OverflowError, ValueError, TypeError) as error:
        raise TypeError(f"{where}: {error}") from None
    low, high = (int(array.min()), int(array.max())) if len(array) else (0, 0)
    fitting = next(t for t in ("|i1", "<i2", "<i4", "<i8") if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return _pack(array.astype(fitting))


def _pack(array: Any) -> str:
    return array.dtype.str + "," + base64.b64encode(zlib.compress(array.tobytes(), 1)).decode()


def _unpack(text: str) -> Any:
    dtype, _, packed = text.partition(",")
    if dtype not in _DTYPES:
        raise ValueError(f"no packed array: {dtype[:20]!r}")
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype)


def readable(sample: Sample) -> dict[str, Json]:
    """One sample with its numbers as plain lists, for files that people read. What would not come back as it is becomes
    the nearest that does: a dictionary, a list, its text."""
    fields: dict[str, Json] = {name: getattr(sample, name) for name in _FIELDS}
    for name in (*_INTEGERS, "rollout_log_probs"):
        fields[name] = np.asarray(fields[name], "<f8" if name == "rollout_log_probs" else np.int64).tolist()
    for name in _COUNTS:
        fields[name] = None if fields[name] is None else int(fields[name])
    for name in (*_FREE, "session_id"):
        fields[name] = _to_json(fields[name], name, _nearest)
    fields["status"] = sample.status.value
    return fields


def read(fields: dict[str, Json]) -> Sample:
    """What :func:`readable` wrote. Raises ValueError, TypeError or KeyError for anything else."""
    if set(fields) != _FIELDS:
        raise ValueError(f"its fields differ in {', '.join(sorted(set(fields) ^ _FIELDS))}")
    told: dict[str, Any] = fields | {name: _from_json(fields[name]) for name in (*_FREE, "session_id")}
    told["status"] = SampleStatus(told["status"])
    return Sample(**told)


type _Unknown = Callable[[Any], Json] | None
"""What stands for a value that would not come back; None: it is refused."""


def _nearest(value: Any) -> Json:
    if isinstance(value, dict):
        return _to_json(dict(cast("dict[Any, Any]", value)), "", _nearest)
    if isinstance(value, list | tuple):
        return _to_json(list(cast("Sequence[Any]", value)), "", _nearest)
    return str(value)


def _to_json(value: Any, where: str, unknown: _Unknown = None) -> Json:
    try:
        return _plain_to_json(value, where, unknown)
    except TypeError:
        if unknown is None:
            raise
        return unknown(value)


def _plain_to_json(value: Any, where: str, unknown: _Unknown) -> Json:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _array_to_json(value, where)
    if isinstance(value, int):
        return value
    if isinstance(value, float):  # JSON has no word for infinity, and none for "not a number"
        return value if np.isfinite(value) else {"$float": repr(float(value))}
    if type(value) is list:
        return [_to_json(each, f"{where}[{i}]", unknown) for i, each in enumerate(cast("list[Any]", value))]
    if type(value) is dict:
        return _dict_to_json(cast("dict[Any, Any]", value), where, unknown)
    for kind, (known, to, _) in _KINDS.items():
        if type(value) is known:
            inner = to(value)
            return {f"${kind}": _to_json(inner, where, unknown) if isinstance(inner, list) else inner}
    raise TypeError(f"{where} is of type {type(value).__qualname__}, which cannot be saved: keep to plain values")


def _dict_to_json(value: dict[Any, Any], where: str, unknown: _Unknown) -> Json:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: _to_json(each, f"{where}.{key}", unknown) for key, each in value.items()}
    pairs = [[_to_json(key, where, unknown), _to_json(each, f"{where}.{key}", unknown)] for key, each in value.items()]
    return {"$dict": pairs}


def _array_to_json(value: Any, where: str) -> Json:
    if value.dtype.hasobject or value.dtype.fields is not None:
        raise TypeError(f"{where} is an array of {value.dtype}, which cannot be saved: keep to numbers")
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(value).tobytes(), 1)).decode()
    scalar = isinstance(value, np.generic)
    return {"$array": [value.dtype.str, None if scalar else list(value.shape), data]}


def _from_json(value: Json) -> Any:
    if isinstance(value, list):
        return [_from_json(each) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    content = cast("dict[str, Any]", value)
    if len(content) != 1 or not (tag := next(iter(content))).startswith("$"):
        return {key: _from_json(each) for key, each in content.items()}
    inner = content[tag]
    match tag:
        case "$float":
            return float(inner)
        case "$dict":
            return {_from_json(key): _from_json(each) for key, each in inner}
        case "$array":
            dtype, shape, data = inner
            array = np.frombuffer(zlib.decompress(base64.b64decode(data)), np.dtype(dtype))
            return array[0] if shape is None else array.reshape(shape).copy()
        case _:
            if tag[1:] not in _KINDS:
                raise ValueError(f"no encoded value: {tag!r}")
            return _KINDS[tag[1:]][2](_from_json(inner))
