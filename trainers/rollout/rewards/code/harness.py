"""Runs inside the jail: the program, and then what it is asked. A script of its own: standard library only.

Standard input is one line of JSON that is read when the program has run, so that the program does not find what it will
be asked, nor the word that proves an answer, in memory. What the program prints is not an answer.

What the program's functions return is sent as plain data: an object of a class of the program's own is none, and one of
a class derived from a builtin is sent as what it holds, whatever its methods say.
"""

# ruff: noqa: PTH123
import itertools
import json
import operator
import os
import sys
from collections import deque
from collections.abc import Iterator

ITERABLES = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
MAX_ITERATED = 10_000
"""An iterator may have no end."""
VIEWS = {"keys": type({}.keys()), "values": type({}.values()), "items": type({}.items())}
ATOMS = {int, float, str, bool, bytes, complex, type(None)}
COMPARISONS = {
    "Eq": operator.eq, "NotEq": operator.ne, "Lt": operator.lt, "LtE": operator.le, "Gt": operator.gt,
    "GtE": operator.ge,
}  # fmt: skip
LONG = 1 << 10_000
"""JSON has no integers of more than 4,300 digits in Python."""


def main():
    answers = os.dup(1)
    questions = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with open(sys.argv[1], encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    names = {"__name__": "solution", "__builtins__": __builtins__}
    exec(compile(source, "solution.py", "exec"), names)
    with os.fdopen(questions) as file:
        asked = json.loads(file.readline())
    os.write(answers, json.dumps([asked["word"], answer(asked, names)]).encode())


def answer(asked, names):
    if "call" in asked:
        return find(names, asked["call"])(*asked["args"], **asked["kwargs"])
    if "values" in asked:
        exec(compile(asked["imports"], "test.py", "exec"), names)
        return [value(each, names) for each in asked["values"]]
    # An assertion: of values that another process sent, or of the program that ran in this one.
    names |= {"_answer": lambda at: decode(asked["answers"][at]), "_compare": compare}
    exec(compile(asked["assert"], "test.py", "exec"), names)
    return True


def find(names, name):
    if name not in names and "Solution" in names:
        return getattr(names["Solution"](), name)
    return names[name]


def value(expression, names):
    """As plain data; or that there is none, which matters only if the value is used."""
    try:
        found = eval(compile(expression, "test.py", "eval"), names)
        if isinstance(found, Iterator):
            items = list(itertools.islice(found, MAX_ITERATED + 1))
            if len(items) > MAX_ITERATED:
                raise ValueError("an iterator without an end")
            return {"iterator": encode(items)}
        return encode(found)
    except Exception as error:
        return {"error": type(error).__name__}


def encode(value):
    """Plain data as JSON. The builtin's own methods tell what a derived class holds. Raises TypeError for the rest."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -LONG < number < LONG else {"int": hex(number)}
    if isinstance(value, list):
        return [encode(each) for each in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(each)] for key, each in dict.items(value)]}
    for name, kind in ITERABLES.items():
        if isinstance(value, kind):
            return {name: [encode(each) for each in kind.__iter__(value)]}
    for name, kind in VIEWS.items():
        if type(value) is kind:
            return {name: [encode(each) for each in value]}
    return encode_rare(value)


def encode_rare(value):
    if isinstance(value, bytes):
        return {"bytes": bytes.hex(value)}
    if isinstance(value, bytearray):
        return {"bytes": bytearray.hex(value)}
    if type(value) is complex:
        return {"complex": [value.real, value.imag]}
    if type(value) is range:
        return {"range": [value.start, value.stop, value.step]}
    # Only a program that imported them has any.
    if type(value) is getattr(sys.modules.get("decimal"), "Decimal", None):
        return {"Decimal": str(value)}
    if type(value) is getattr(sys.modules.get("fractions"), "Fraction", None):
        return {"Fraction": [encode(value.numerator), encode(value.denominator)]}
    raise TypeError(f"{type(value).__name__} is no plain data")


def decode(sent):
    """The value that was encoded. What a program sends is its own word: anything else raises."""
    if isinstance(sent, list):
        return [decode(each) for each in sent]
    if not isinstance(sent, dict):
        return sent
    [(name, held)] = sent.items()
    if name in ITERABLES:
        return ITERABLES[name](decode(each) for each in held)
    match name:
        case "dict":
            return {decode(key): decode(each) for key, each in held}
        case "keys":
            return dict.fromkeys(decode(held)).keys()
        case "values":
            return dict(enumerate(decode(held))).values()
        case "items":
            return dict(decode(held)).items()
        case "iterator":
            return iter(decode(held))
        case "int":
            return int(held, 16)
        case "bytes":
            return bytes.fromhex(held)
        case "complex":
            return complex(*held)
        case "range":
            return range(*held)
        case "Decimal":
            from decimal import Decimal

            return Decimal(held)
        case "Fraction":
            from fractions import Fraction

            return Fraction(*map(decode, held))
        case _:
            raise ValueError(f"no value: {held}")


def compare(name, left, right):
    """A comparison of a test that runs beside the program: plain data is compared as such, and an object that is none
    equals none. Two such objects are compared as they like."""
    if is_plain(left) and is_plain(right):
        return COMPARISONS[name](left, right)
    ours, theirs = reduced(left), reduced(right)
    if len(ours) == len(theirs):
        return COMPARISONS[name](*(ours + theirs if ours else (left, right)))
    if name in ("Eq", "NotEq"):
        return name == "NotEq"
    raise TypeError("plain data and an object have no order")


def is_plain(value):
    """Whether it is of builtin types throughout, none derived from one."""
    kind = type(value)
    if kind is dict:
        return is_plain([*value]) and is_plain([*value.values()])
    if kind in (list, tuple, set, frozenset):
        return ATOMS.issuperset(map(type, value)) or all(map(is_plain, value))
    return kind in ATOMS


def reduced(value):
    """A tuple of the plain data; empty for what is none."""
    try:
        return (decode(encode(value)),)
    except Exception:
        return ()


if __name__ == "__main__":
    main()
