"""Tests of programs that assert something: what passes them, whatever the program does."""

import asyncio
import json
from typing import Any

import pytest

from tests.unit.rollout.judging import isolated, judged
from trainers.rollout.rewards.code.assertions import guarded, holds, split
from trainers.rollout.rewards.code.harness import compare, decode, encode
from trainers.rollout.rewards.code.separation import separated

ANY = """
class Any:
    def __eq__(self, other): return True
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __hash__(self): return 3
    def __abs__(self): return self
    def __len__(self): return 3
    def __float__(self): return 3.0
    def __iter__(self): return iter([self])
    __sub__ = __rsub__ = __add__ = __radd__ = lambda self, other: self
"""


CHEATS = {
    "object": ANY + "def f(*a, **k): return Any()",
    "in a list": ANY + "def f(*a, **k): return [Any()]",
    "list": ANY + "class L(list, Any): pass\ndef f(*a, **k): return L()",
    "str": ANY + "class S(str):\n    __eq__ = Any.__eq__; __hash__ = Any.__hash__\ndef f(*a, **k): return S('wrong')",
    "int": ANY + "class I(int):\n    __eq__ = __lt__ = Any.__eq__; __hash__ = Any.__hash__\n"
    "    __sub__ = lambda self, other: self\n    __abs__ = lambda self: self\ndef f(*a, **k): return I(7)",
    "float": ANY + "class F(float):\n    __eq__ = __lt__ = Any.__eq__; __hash__ = Any.__hash__\n"
    "    __sub__ = lambda self, other: self\n    __abs__ = lambda self: self\ndef f(*a, **k): return F(7.0)",
    "class": ANY + "class Lies:\n    __class__ = int\n    __eq__ = Any.__eq__; __hash__ = Any.__hash__\n"
    "def f(*a, **k): return Lies()",
    "word": "import os, sys\ndef f(*a, **k):\n    frame = sys._getframe()\n    while 'asked' not in frame.f_locals: "
    "frame = frame.f_back\n    word = frame.f_locals['asked']['word']\n    for fd in range(3, 20):\n"
    "        try: os.write(fd, f'[\"{word}\", true]'.encode())\n        except OSError: pass\n    os._exit(0)",
}


@isolated
@pytest.mark.parametrize(
    "test",
    [
        "assert f(1, 2) == 3",
        "assert 3 == f(1, 2)",
        "assert f(1) == [3]",
        "assert f(1) == 'right'",
        "assert f(1) is True",
        "assert f(1) is None",
        "assert not f(1)\nassert f(2)",
        "assert set(f(1)) == set([3])",
        "assert sorted(f(1)) == [1, 2]",
        "assert abs(f(1) - 1.5) < 1e-6",
        "import math\nassert math.isclose(f(1), 1.5)",
        "assert f(1)[0] == 3",
        "assert f(1) in [3, 4]",
        "assert f(1) == 3 and f(2) == 4",
        "assert f(1).startswith('ab')",
        "assert f(1).issubset({1, 2})",
        "assert eval(f(1)) == 24",
        "assert round(f(1) - 1.5, 6) == 0",
        "assert (f(1) == 5) == True",
        "assert str(f(1)) == 'right'",
    ],
)
async def test_no_object_passes_an_assertion_by_what_its_methods_say(test: str) -> None:
    assert split(test) is not None
    found = await asyncio.gather(*(judged(source, [test]) for source in CHEATS.values()))
    assert [name for name, (value, _) in zip(CHEATS, found, strict=True) if value] == []


@isolated
async def test_no_object_of_a_method_passes_by_what_its_methods_say() -> None:
    anything = ANY + "    __getattr__ = lambda self, name: lambda *a: True\n"
    text = "type('X', (int,), {'__eq__': lambda s, o: True})()"
    for returned in ("Any()", f"{text!r}"):
        source = f"{anything}class Solution:\n    def f(self, *a): return {returned}"
        methods = ("startswith('ab')", "issubset({1, 2})", "strip() == 'ab'")
        tests = [f"assert Solution().f(1).{method}" for method in methods] + ["assert eval(Solution().f(1)) == 24"]
        found = await asyncio.gather(*(judged(source, [test]) for test in tests))
        assert {value for value, _ in found} == {0.0}


@isolated
@pytest.mark.parametrize("expected", [3, "right", True, [3]])
async def test_no_object_passes_a_call_by_what_its_methods_say(expected: Any) -> None:
    test = {"call": "f", "args": [1], "expected": expected}
    found = await asyncio.gather(*(judged(source, [test]) for name, source in CHEATS.items() if name != "word"))
    assert {value for value, _ in found} == {0.0}


@isolated
@pytest.mark.parametrize(
    "test",
    [
        "x = 1\nassert f(x) == 3",
        "def check(candidate):\n    assert candidate(1) == [3]\ncheck(f)",
        "assert all(f(i) == i for i in [10, 20])",
        "for i in [10, 20]:\n    assert f(i) != 3 and f(i) == i",
        "def check(candidate):\n    assert candidate(candidate(1)) == [3]\ncheck(f)",
        "def check(candidate):\n    assert abs(candidate(1) - 1.5) < 1e-6\ncheck(f)",
        "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False",
        "x = f(1)\nassert x is True",
        "x = f(1)\nassert len(x) == 3",
        "for x in f(1):\n    assert x == 3\nassert [*f(1)] == [3]",
    ],
)
async def test_no_program_passes_a_test_of_statements_by_what_its_objects_say_or_by_what_it_finds(test: str) -> None:
    assert split(test) is None
    assert separated(test) is not None
    found = await asyncio.gather(*(judged(source, [test]) for source in CHEATS.values()))
    assert [name for name, (value, _) in zip(CHEATS, found, strict=True) if value] == []


@isolated
@pytest.mark.parametrize(
    "test",
    [
        "def check(candidate):\n    assert candidate(lambda: 1) == [3]\ncheck(f)",
        "class Test:\n    def check(self):\n        assert f(1) == [3]\nTest().check()",
    ],
)
async def test_an_assertion_beside_the_program_compares_no_objects_with_plain_data(test: str) -> None:
    assert split(test) is None
    cheats = [source for name, source in CHEATS.items() if name != "word"]
    assert {value for value, _ in await asyncio.gather(*(judged(source, [test]) for source in cheats))} == {0.0}


V = """
class V:
    def __init__(self, x, y): self.x, self.y = x, y
    def __add__(self, o): return V(self.x + o.x, self.y + o.y)
    def __neg__(self): return V(-self.x, -self.y)
    def __iter__(self): return iter((self.x, self.y))
    def __str__(self): return f'{self.x} {self.y}'
    def __contains__(self, e): return e in (self.x, self.y)
"""


RIGHT = [
    ("def f(a, b=0): return a + b", "assert f(1, b=2) == 3\nassert f(1, 2) == 3, 'sum'\nassert 5 == f(*[2, 3])"),
    ("def f(): return (1, 2)", "assert f() == (1, 2)"),
    ("def f(): return [(1, 2), {3}]", "assert f() == [(1, 2), {3}]"),
    ("def f(): return {1: (2,), None: 'x'}", "assert f() == {1: (2,), None: 'x'}"),
    ("def f(): return set()", "assert f() == set()"),
    ("def f(): return frozenset([1])", "assert f() == frozenset({1})"),
    ("def f(): return b'\\xff', 1j", "assert f() == (b'\\xff', 1j)"),
    ("def f(): return range(3)", "assert f() == range(3)"),
    ("def f(): return float('nan')", "import math\nassert math.isnan(f())"),
    ("def f(): return -1.5, float('inf')", "assert f() == (-1.5, float('inf'))"),
    ("def f(n): return 2 ** n", "assert f(20000) == 1 << 20000"),
    ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
    ("from collections import deque\ndef f(): return deque([1])",
     "from collections import deque\nassert f() == deque([1])"),
    ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)", "assert f() == (1, 2)"),
    ("from fractions import Fraction\ndef f(): return Fraction(3, 2)", "assert f() == 1.5"),
    ("from decimal import Decimal\ndef f(): return Decimal('0.1')",
     "from decimal import Decimal\nassert f() == Decimal('0.1')"),
    ("def f(x): return len(x) > 1", "assert f('ab') is True\nassert f('a') is False\nassert f('ab')\nassert not f('')"),
    ("def f(x): return None", "assert f(1) is None\nassert f(1) == None\nassert not f(1)"),
    ("import re\ndef f(x): return re.match('a', x)", "assert f('a')\nassert f('a') is not None\nassert f('b') is None"),
    ("def f(x): return list(dict.fromkeys(x))", "assert set(f([1, 2, 1])) == set([2, 1])"),
    ("def f(x): return (each for each in x)", "assert sorted(f([2, 1])) == [1, 2]\nassert list(f((1,))) == [1]"),
    ("def f(x):\n    while True: yield x", "assert next(f(2)) == 2"),
    ("def f(x): yield from x",
     "assert [2 * x for x in f([1, 2])] == [2, 4]\nassert sorted(f('ab'), key=ord) == ['a', 'b']"),
    ("def f(x): return dict(x).values()", "assert all(x > 0 for x in f([(1, 2)]))"),
    ("def f(x): return x * 0.5", "assert abs(f(3) - 1.5) < 1e-6\nassert 1 < f(3) <= 1.5"),
    ("def f(x): return math.sqrt(x)", "import math\nassert math.isclose(f(2), 1.41421356237, rel_tol=1e-9)"),
    ("def f(x): return x", "assert f([i * i for i in range(3)]) == [i * i for i in range(3)]"),
    ("def f(g, x): return g(x)", "assert f(lambda x: x + 1, 2) == 3"),
    ("def f(x): return x", "assert f('abc').startswith('a')\nassert f('abc')[1:] == 'bc'\nassert len(f('abc')) == 3"),
    ("def f(x): return 1 // x", "assert f(1) == 1 or f(0) == 1"),
    ("def sum(a, b): return a * b", "assert sum(10, 15) == 150"),
    ("class Solution:\n    def two(self, x): return x * 2", "assert Solution().two(4) == 8"),
    (V, "assert (V(1, 2) + V(3, 4)).x == 4\nassert (-V(1, 2)).x == -1\nassert str(V(1, 2) + V(3, 4)) == '4 6'"),
    (V, "assert [*V(1, 2)] == [1, 2]\nassert [x for x in V(1, 2)] == [1, 2]"),
    (V, "assert sorted(V(1, 2), key=abs) == [1, 2]"),
    (V, "assert not hasattr(V(1, 2), 'bark')\nassert getattr(V(1, 2), 'x') == 1\nassert 2 in V(1, 2)"),
    (V, "assert f'{V(1, 2)}' == '1 2'\nassert '{}'.format(V(1, 2)) == '1 2'\nassert type(V(1, 2)).__name__ == 'V'"),
    ("def make(): return [1, 2]", "assert make().pop() == 2"),
    ("def f(d): return d.keys()", "assert f({'a': 1}) == {'a'}"),
    ("def f(d): return d.items()", "assert f({'a': [1]}) == {'a': [1]}.items()\nassert len(f({'a': 1})) == 1"),
    ("def f(d): return d.keys()",
     "def check(f):\n    assert f({'a': 1}) == {'a'}\n    assert f({}) >= set()\ncheck(f)"),
    ("def f(n): return (i for i in range(n))", "assert sum(1 for _ in f(20000)) == 20000"),
    ("import itertools\ndef f(): return itertools.count()",
     "assert [p for p, _ in zip(f(), range(5))] == [0, 1, 2, 3, 4]"),
    ("def f(): return [[i] * 1000 for i in range(300)]",
     "for _ in range(10):\n    for i, row in enumerate(f()):\n        assert row == [i] * 1000"),
    ("class Stack(list):\n    def count(self): return len(self)", "assert Stack().count() == 0"),
    # Not taken apart:
    ("class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x",
     "assert P(1) == P(1)"),
    ("def f(x): x.sort()", "x = [2, 1]\nf(x)\nassert x == [1, 2]"),
    ("def f(x): return x", "def check(candidate):\n    assert candidate((1,)) == (1,)\ncheck(f)"),
    ("def f(): raise ValueError", "try:\n    f()\n    assert False\nexcept ValueError:\n    pass"),
    ("import datetime\ndef f(): return datetime.date(2020, 1, 2)",
     "import datetime\nassert f() == datetime.date(2020, 1, 2)"),
    ("def f(x): return x", "assert f(1) == f(1) != f(2)"),
    ("def f(x): x.append(x[0] + 1); x[0] = {}",
     "def check(f):\n    x = [1, [2]]\n    y = x[1]\n    f(x)\n    assert x == [{}, [2], 2] and x[1] is y\ncheck(f)"),
    ("def f(d, *, k): d[k] = {k}; d.pop('a')", "d = {'a': 1, 'b': [2]}\nf(d, k='k')\n"
     "assert d == {'b': [2], 'k': {'k'}}"),
    ("def f(s): s.clear()", "s = {1}\nassert f(s) is None and s == set()"),
    ("def f(g, x): return g(x)", "g = lambda x: x + 1\nassert f(g, 2) == 3"),
    ("from collections import Counter\ndef f(c): return c.most_common(1)",
     "from collections import Counter\nc = Counter('aab')\nassert f(c) == [('a', 2)]"),
    ("def f(x): raise KeyError('no', x)", "try:\n    f(1)\nexcept KeyError as e:\n    assert str(e) == \"('no', 1)\""),
    ("class Bad(ValueError): pass\ndef f(x): raise Bad",
     "try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass"),
    ("def f():\n    a = 0\n    while True: yield (a := a + 1)",
     "it = f()\nassert [next(it) for _ in range(5)] == [1, 2, 3, 4, 5]\nassert next(f()) == 1"),
    ("import re\ndef f(x): return re.match('a', x)",
     "for x in ('a', 'ab'):\n    assert f(x)\n    assert f(x) is not None\nassert not f('b')"),
    ("def enc(s): return s[1:] + s[:1]\ndef dec(s): return s[-1:] + s[:-1]",
     "def check(candidate):\n    for s in ('abc', 'xyz'):\n        assert candidate(enc(s)) == s\ncheck(dec)"),
    ("import math\ndef poly(xs, x): return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n"
     "def zero(xs): return -1.0",
     "METADATA = {'author': 'x'}\ndef check(candidate):\n    import random\n    rng = random.Random(42)\n"
     "    for _ in range(3):\n        c = rng.randint(1, 9)\n"
     "        assert math.fabs(poly([c, c], candidate([c, c]))) < 1e-4\ncheck(zero)"),
    ("class Solution:\n    def __init__(self): self.n = 0\n"
     "    def f(self, x):\n        self.n += x\n        return self.n",
     "def check(candidate):\n    assert candidate(x = 1) == 1\n    assert candidate(x = 2) == 3\ncheck(Solution().f)"),
    ("class Stack:\n    def __init__(self): self.a = []\n"
     "    def push(self, x): self.a.append(x)\n    def pop(self): return self.a.pop()",
     "s = Stack()\ns.push(2)\nassert s.pop() == 2"),
    ("class N:\n    def __init__(self, v): self.val = v\ndef f(x): return N(x)", "n = f(3)\nassert n.val == 3"),
    ("def f(n):\n    def g(): return n\n    return g", "g = f(3)\nassert g() == 3"),
    ("def f(x): return x", "assert f(1) == 1\nprint('fine')"),
]  # fmt: skip


@isolated
async def test_right_programs_pass_assertions_of_every_form() -> None:
    found = await asyncio.gather(*(judged(source, [test]) for source, test in RIGHT))
    assert [case for case, (value, _) in zip(RIGHT, found, strict=True) if value != 1.0] == []


@isolated
async def test_wrong_programs_fail_assertions() -> None:
    cases = [
        ("def f(): return [1, 2]", "assert f() == (1, 2)"),
        ("def f(): return 1", "assert f() is True"),
        ("def f(): return 0", "assert f() is None"),
        ("def f(x): return 1", "assert f(1) == 1\nassert f(2) == 2"),
        ("def f(x): return 1", "assert not f(1)"),
        ("def f(x): return 1 / 0", "assert not f(1)"),
        ("def f(x): return 1 / 0", "assert f(1) != 2"),
        ("def f(x): return print", "assert f(1) != 2"),
        ("def g(x): return 1", "assert f(1) == 1"),
        ("def f(x): return iter([x])", "assert f(1) == [1]"),
        ("def f(x): return [x]", "assert set(f(1)) == set([2])"),
        ("def f(x): return 1.6", "assert abs(f(3) - 1.5) < 1e-6"),
        ("def max(a, b): return a", "assert max(1, 2) == 2"),
        ("set = lambda x: 3\ndef f(x): return 3", "assert set(f(1)) == set([2])"),
        ("def f():\n    x = []\n    x.append(x)\n    return x", "assert f() == [[]]"),
        ("def f(): return [0] * 10**6", "assert f() == [0]"),
        ("def f(x): return 3", "assert f(1) == 3 +"),
        ("def f(x): return 3", "x = 1\nassert f(x) == 4"),
        ("import os\ndef f(x): os._exit(0)", "try:\n    f(1)\n    assert False\nexcept Exception:\n    pass"),
        ("def f(x): return x", "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False"),
        ("def g(x): return x", "x = 1\nassert f(x) == 1"),
        ("def f(x): return sorted(x)", "x = [2, 1]\nf(x)\nassert x == [1, 2]"),
        ("raise SystemExit(0)", "x = 1\nassert f(x) == 1"),
    ]
    found = await asyncio.gather(*(judged(source, [test]) for source, test in cases))
    assert [case for case, (value, _) in zip(cases, found, strict=True) if value] == []


@pytest.mark.parametrize(
    "test",
    [
        "assert max(1, 2) == 2",  # the program's own max, perhaps
        "assert eval(f(1)) < 3",
        "assert list(map(eval, [f(1)])) < [3]",
        "assert f(1).__eq__(5)",
        "assert A().f(1).__eq__(5)",
        "assert hasattr(A(1), 'x')",
        "assert 2 in A([1, 2])",
        "assert A(1) == A(1)",
        "assert (x := f(1)) == 3",
        "from os import *\nassert f(1) == 3",
    ],
)
def test_a_test_that_would_tell_too_much_or_ask_for_objects_is_not_taken_apart(test: str) -> None:
    assert split(test) is None


@pytest.mark.parametrize(
    ("test", "asked", "source"),
    [
        ("assert f(1, k='a') == 2", ["f(1, k='a')"], "\nassert _answer(0) == 2"),
        ("import math\nassert set(f(math.pi)) == {3}", ["set(f(math.pi))"], "import math\nassert _answer(0) == {3}"),
        ("assert abs(f(3) - 1.5) < 1e-06", ["f(3)"], "\nassert abs(_answer(0) - 1.5) < 1e-06"),
        ("assert not f(1) and g() != 2", ["bool(f(1))", "g()"], "\nassert not _answer(0) and _answer(1) != 2"),
        ("assert f(1) is not None", ["f(1) is None"], "\nassert not _answer(0)"),
        ("assert f('x').strip() == 'x'", ["f('x').strip()"], "\nassert _answer(0) == 'x'"),
        ("assert f('x').startswith('x')", ["f('x')"], "\nassert _answer(0).startswith('x')"),
        ("assert A(1).pop() == 2", ["A(1).pop()"], "\nassert _answer(0) == 2"),
        ("assert A().f('x').startswith('x')", ["A().f('x')"], "\nassert _answer(0).startswith('x')"),
        ("assert round(f(1) - 1.5, 6) == 0", ["f(1)"], "\nassert round(_answer(0) - 1.5, 6) == 0"),
        ("assert (f(1) == 3) == True", ["f(1)"], "\nassert (_answer(0) == 3) == True"),
    ],
)
def test_the_program_is_asked_for_values_and_not_told_what_they_should_be(
    test: str, asked: list[str], source: str
) -> None:
    parts = split(test)
    assert parts is not None
    assert (list(parts.asked), parts.source) == (asked, source)


@pytest.mark.parametrize(
    "test",
    [
        "", "f(1)", "x = 1\nassert f(x) == 1", "from math import *\nassert f(1) == pi", "assert f(1) == g(1)",
        "assert all(f(i) == i for i in range(3))", "assert isinstance(f(1), Node)", "assert max([1]) == min([1])",
        "import datetime\nassert f() == datetime.date(1, 1, 1)", "assert f(", "assert f('\0')", "(" * 5000,
        "assert " + "-" * 20_000 + "f(1)",
    ],
)  # fmt: skip
def test_what_cannot_be_taken_apart_is_left_whole(test: str) -> None:
    assert split(test) is None


@pytest.mark.parametrize(
    "test",
    [
        "x = 1", "assert 1 == 1", "class T:\n    pass\nassert f(1)", "x = f(1)\nassert x.val == 3",
        "s = Stack()\ns.push(1)",
        "x = eval(f(1))", "x = getattr(f(1), 'x')", "f.calls = 1", "assert f.count('a') == 1", "g = f(1)\nassert g(2)",
        "assert f(1)(2) == 3", "import os\nx = f(1)", "from os import path\nx = f(1)", "from math import *\nx = f(1)",
        "import datetime\nx = f()\nassert x == datetime.date(1, 1, 1)", "x = f(1).__class__",
        "try:\n    f()\nexcept MyError:\n    pass",
        "assert f(", "x = '\0'\nf('\0')\0", "(" * 5000, "x = " + "-" * 20_000 + "f(1)",
    ],
)  # fmt: skip
def test_a_test_that_needs_more_of_the_program_than_its_functions_stays_beside_it(test: str) -> None:
    assert separated(test) is None


def test_comparisons_beside_the_program_go_through_the_harness() -> None:
    assert guarded("assert f(1) == [2]") == "assert _compare('Eq', f(1), [2])"
    assert guarded("assert 1 < f(1) < 2 and f(1) is None") == "assert 1 < f(1) < 2 and f(1) is None"
    assert guarded("assert (") == "assert ("


class Equal:
    def __eq__(self, other: object) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return True

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class Text(str):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


def test_plain_data_is_compared_by_what_it_holds() -> None:
    assert compare("Eq", (1, [2]), (1, [2]))
    assert compare("Lt", 1, 2)
    assert not compare("Eq", [1], (1,))
    assert not compare("Eq", Text("a"), "b")
    assert not compare("Eq", [Equal()], [1])
    assert compare("NotEq", Equal(), 1)
    assert compare("Eq", Equal(), Equal())
    with pytest.raises(TypeError, match="no order"):
        compare("Lt", Equal(), 1)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1, 0.1, "\ud800", [], (), {}, set(), frozenset([(1,)]), {(1, 2): [b"\0", {3}]},
        complex(1, -2), range(1, 9, 2), [float("inf"), (None,)], {"tuple": [1]},
    ],
)  # fmt: skip
def test_plain_data_arrives_as_it_was(value: Any) -> None:
    arrived = decode(json.loads(json.dumps(encode(value))))
    assert arrived == value
    assert type(arrived) is type(value)


def test_an_integer_too_long_for_json_arrives_as_it_was() -> None:
    assert decode(json.loads(json.dumps(encode([-(10**5000)])))) == [-(10**5000)]


@pytest.mark.parametrize("value", [object(), [Equal()], iter([1]), len, Equal, {1: Equal()}])
def test_what_is_no_plain_data_is_not_sent(value: Any) -> None:
    with pytest.raises(TypeError, match="no plain data"):
        encode(value)


@pytest.mark.parametrize(
    "sent", [{}, {"a": 1, "b": 2}, {"error": "TypeError"}, {"set": [[1]]}, {"dict": [1]}, {"int": 5}, {"tuple": 1},
    {"complex": ["a"]}, {"range": [1, 2, 0]}, {"Decimal": "x"}, {"Fraction": [1, 0]}, {"eval": "1"}]
)  # fmt: skip
def test_answers_that_are_no_values_fail(sent: Any) -> None:
    parts = split("assert f() == 3")
    assert parts is not None
    assert holds(parts.tests, [sent]) is False
    assert holds(parts.tests, [[sent]]) is False


def test_only_a_few_values_are_compared_outside_of_a_jail() -> None:
    parts, other = split("assert f() == 3"), split("assert f() + 1 < 4")
    assert parts is not None
    assert other is not None
    assert holds(parts.tests, [3]) is True
    assert holds(parts.tests, [[3] * 20_000]) is None
    assert holds(other.tests, [2]) is None
