"""Runs inside the jail: the program, and then what it is asked. A script of its own: standard library only.

Standard input is one line of JSON that is read when the program has run, so that the program does not find what it will
be asked, nor the word that proves an answer, in memory. What the program prints is not an answer. With a second
argument, the program runs in a process of its own, and a test in this one calls its functions.

What the program's functions return is sent as plain data: an object of a class of the program's own is none, and one of
a class derived from a builtin is sent as what it holds, whatever its methods say.
"""

# ruff: noqa: PTH123
import builtins
import contextlib
import itertools
import json
import operator
import os
import sys
from collections import deque
from collections.abc import Iterator

TYPE_CHECKING = False  # without importing what says so, which takes time
if TYPE_CHECKING:
    from typing import Any

ITERABLES = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
MAX_ITERATED = 10_000
"""An iterator may have no end."""
VIEWS = {"keys": type({}.keys()), "values": type({}.values()), "items": type({}.items())}
ATOMS = {int, float, str, bool, bytes, complex, type(None)}
JSON = {int, float, str, bool, type(None)}
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
    apart = len(sys.argv) > 2
    names = program(sys.argv[1]) if not apart else {}
    beside = Program(lambda: program(sys.argv[1]), (answers, questions)) if apart else None
    with os.fdopen(questions) as file:
        asked = json.loads(file.readline())
    result = beside.passes(asked) if beside else answer(asked, names)
    os.write(answers, json.dumps([asked["word"], result]).encode())


def program(path):
    """The names of the program, which has run."""
    with open(path, encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    names = {"__name__": "solution", "__builtins__": __builtins__}
    exec(compile(source, "solution.py", "exec"), names)
    return names


class NotPlain(BaseException):
    """A test hands the program what is no plain data, and has to run in its process."""


class Opaque:
    """What a function returned that is no plain data: true or false, and comparable with nothing."""

    def __init__(self, truth):
        self._truth = truth

    def __bool__(self):
        return self._truth

    def _refused(self, *other):
        raise TypeError("what the program returned is no plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __str__ = __repr__ = _refused


class Iterated:
    """An iterator that a function returned."""

    def __init__(self, items):
        self._items = items

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._items)


class Program:
    """The program in a process of its own, which sees neither the test nor what is expected."""

    def __init__(self, start, hidden):
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        if os.fork() == 0:
            for each in (*hidden, self._to, self._from):
                os.close(each)
            serve(start(), theirs, ours)
            os._exit(0)
        os.close(theirs)
        os.close(ours)
        self._replies = os.fdopen(self._from, "rb")
        self._numbers = itertools.count()
        self._ask(None)  # it has run

    def passes(self, asked):
        """Whether a test passes; None when it has to run in the program's own process."""
        names = {"_method": self._function} | {name: self._function(name) for name in asked["functions"]}
        try:
            exec(compile(asked["test"], "test.py", "exec"), names)
        except NotPlain:
            return None
        return True

    def _function(self, expression):
        number = next(self._numbers)

        def call(*args, **kwargs):
            if not can_be_handed([*args, kwargs]):
                raise NotPlain
            given = [list(args), kwargs]
            reply = self._ask({"call": number, "function": expression, "given": encode(given)})
            if "given" in reply:
                renew(given, decode(reply["given"]))
            return self._outcome(reply)

        return call

    def _outcome(self, reply) -> "Any":
        if "raised" in reply:
            kind = getattr(builtins, str(reply["raised"]))
            raise kind(*decode(reply["args"])) if issubclass(kind, BaseException) else TypeError
        if "opaque" in reply:
            return Opaque(bool(reply["opaque"]))
        return Iterated(self._items(reply["iterator"])) if "iterator" in reply else decode(reply["returned"])

    def _items(self, number):
        count = 1
        while items := self._outcome(self._ask({"next": number, "count": count})):
            yield from items
            count = min(2 * count, 1024)

    def _ask(self, question):
        try:
            if question is not None:
                write(self._to, json.dumps(question).encode() + b"\n")
            return json.loads(self._replies.readline())
        except (OSError, ValueError):
            os._exit(1)  # it has ended: no test is to take that for an exception of its function


def serve(names, questions, answers):
    """Call what is asked for, with the program's ``names``."""
    functions, iterators = {}, []
    with os.fdopen(questions, "rb") as file:
        os.write(answers, b"{}\n")
        for line in file:
            write(answers, json.dumps(reply(json.loads(line), names, functions, iterators)).encode() + b"\n")


def reply(asked, names, functions, iterators):
    given = {}
    try:
        if "next" in asked:
            return {"returned": encode(list(itertools.islice(iterators[asked["next"]], asked["count"])))}
        number = asked["call"]
        if number not in functions:
            functions[number] = eval(asked["function"], names)
        args, kwargs = decode(asked["given"])
        found = functions[number](*args, **kwargs)
        with contextlib.suppress(Exception):
            given = {"given": encode([args, kwargs])}
        if isinstance(found, Iterator):
            iterators.append(found)
            return given | {"iterator": len(iterators) - 1}
        try:
            return given | {"returned": encode(found)}
        except Exception:
            return given | {"opaque": bool(found)}
    except BaseException as error:
        kind = next(each for each in type(error).__mro__ if each.__module__ == "builtins")
        try:
            return given | {"raised": kind.__name__, "args": encode(error.args)}
        except Exception:
            return given | {"raised": kind.__name__, "args": []}


def can_be_handed(value):
    """Whether the program can be given the same. What it returned itself is no reason to let it run beside the test."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset, deque, *VIEWS.values()):
        return all(map(can_be_handed, value))
    if kind is dict:
        return all(map(can_be_handed, itertools.chain(value, value.values())))
    return kind in ATOMS or kind in (range, Opaque, Iterated) or kind.__module__ in ("decimal", "fractions")


def write(file, data):
    while data:
        data = data[os.write(file, data) :]


def renew(held, now):
    """Make of what a test holds what the program made of its copy. Returns what stands in its place."""
    if type(held) is not type(now):
        return now
    if type(held) is list:
        held[:] = [*map(renew, held, now), *now[len(held) :]]
    elif type(held) is dict:
        renewed = {key: renew(held[key], each) if key in held else each for key, each in now.items()}
        held.clear()
        held.update(renewed)
    elif type(held) is set:
        held.clear()
        held.update(now)
    else:
        return now
    return held


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
        items = [*list.__iter__(value)]
        kinds = {*map(type, items)}
        if kinds <= JSON and all(-LONG < each < LONG for each in items if type(each) is int):
            return items
        return [encode(each) for each in items]
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


def decode(sent) -> "Any":
    """The value that was encoded. What a program sends is its own word: anything else raises."""
    if isinstance(sent, list):
        return [decode(each) for each in sent] if {list, dict} & {*map(type, sent)} else [*sent]
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
