"""What a program is tested by, as a sample's metadata says it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class InputOutput:
    """The program reads ``stdin`` and writes ``stdout``; white space at the ends of lines does not count."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the program (or a method of its class Solution) returns ``expected``, a value of JSON."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expected: Any


@dataclass(frozen=True, slots=True)
class Assertion:
    """Python that raises unless the program, which ran before it, is right. What can be told apart as the program's
    answers is compared outside of its process; the rest runs in it, where the program could tamper with the test."""

    source: str


type Case = InputOutput | Call | Assertion


def cases_of(metadata: Mapping[str, Any]) -> tuple[Case, ...]:
    """The cases under ``metadata["tests"]``: a list of ``{"stdin", "stdout"}``, ``{"call", "args", "kwargs",
    "expected"}``, ``{"assert"}`` or plain assertions; or APPS' ``{"inputs", "outputs", "fn_name"}``; or either as a
    string of JSON. Raises ValueError that says what is wrong."""
    told = metadata.get("tests")
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"metadata.tests is no JSON: {error}") from None
    if isinstance(told, Mapping):
        found = _apps(told)
    elif isinstance(told, Sequence) and not isinstance(told, str):
        found = [_case(each, at) for at, each in enumerate(told)]
    else:
        raise ValueError("metadata.tests is missing: reward type code needs a list of tests")
    if not found:
        raise ValueError("metadata.tests is empty: a program without tests would always be right")
    return tuple(found)


def _case(told: Any, at: int) -> Case:
    if isinstance(told, str):
        return Assertion(told)
    if isinstance(told, Mapping):
        keys = set(told)
        if keys == {"assert"}:
            return Assertion(str(told["assert"]))
        if keys == {"stdin", "stdout"}:
            return InputOutput(str(told["stdin"]), str(told["stdout"]))
        if {"call", "expected"} <= keys <= {"call", "args", "kwargs", "expected"}:
            return Call(str(told["call"]), tuple(told.get("args", ())), dict(told.get("kwargs", {})), told["expected"])
    raise ValueError(
        f"metadata.tests[{at}] is {told!r:.100}: expected {{stdin, stdout}}, {{call, args, expected}}, {{assert}} or "
        "an assertion"
    )


def _apps(told: Mapping[Any, Any]) -> list[Case]:
    inputs, outputs, function = told.get("inputs"), told.get("outputs"), told.get("fn_name")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("metadata.tests: 'inputs' and 'outputs' must be lists of the same length")
    if function is None:
        return [InputOutput(_lines(i), _lines(o)) for i, o in zip(inputs, outputs, strict=True)]
    # APPS wraps what a function returns in a list.
    return [
        Call(str(function), tuple(i), {}, o[0] if isinstance(o, list) and len(o) == 1 else o)
        for i, o in zip(inputs, outputs, strict=True)
    ]


def _lines(told: Any) -> str:
    return "\n".join(map(str, told)) if isinstance(told, list) else str(told)


def same_output(output: bytes, expected: str) -> bool:
    """Whether two texts agree line by line, but for white space at the ends of lines and of the text."""
    return _stripped(output.decode("utf-8", errors="replace")) == _stripped(expected)


def _stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def same_value(value: Any, expected: Any) -> bool:
    """Whether two values of JSON are equal; numbers that are not whole up to a relative 1e-9."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, int) and isinstance(expected, int):
        return value == expected
    if isinstance(value, int | float) and isinstance(expected, int | float):
        try:
            return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9)
        except OverflowError:
            return False
    if isinstance(value, list) and isinstance(expected, list | tuple):
        return len(value) == len(expected) and all(map(same_value, value, expected))
    if isinstance(value, dict) and isinstance(expected, Mapping):
        return value.keys() == expected.keys() and all(same_value(value[key], expected[key]) for key in value)
    return value == expected
