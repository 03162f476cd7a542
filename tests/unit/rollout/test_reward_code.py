"""Programs in responses: which they are, and how their tests are counted."""

import asyncio
import functools
import itertools
import json
from typing import Any

import pytest

from tests.unit.rollout.hostile_strings import hostile
from tests.unit.rollout.judging import isolated, judged
from trainers.errors import RolloutFailed
from trainers.rollout.rewards.code.cases import Assertion, Call, InputOutput, cases_of, same_output, same_value
from trainers.rollout.rewards.code.judge import program_of
from trainers.rollout.rewards.code.sandbox import Ended, Program, Sandbox


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\na\n```\ntext\n```\nb\n```\n", "b\n"),
        ("```python\na\n```\n```sh\nls\n```", "a\n"),
        ("```python\na\n```\n```python\nb", None),
        ("1. So:\n   ```python\n   if a:\n       b\n\n   c\n   ```", "if a:\n    b\n\nc\n"),
        ("```python\n  a\n```", "  a\n"),
        ("<think>```python\na\n```</think>no", None),
        ("print(1)", None),
        ("", None),
    ],
)
def test_the_last_closed_python_block_is_the_program(response: str, program: str | None) -> None:
    assert program_of(response) == program


def test_tests_come_in_several_forms() -> None:
    assert cases_of({"tests": ["assert f() == 1", {"assert": "g()"}, {"stdin": "1", "stdout": "2"}]}) == (
        Assertion("assert f() == 1"),
        Assertion("g()"),
        InputOutput("1", "2"),
    )
    assert cases_of({"tests": '[{"call": "f", "args": [1], "expected": 2}]'}) == (Call("f", (1,), {}, 2),)
    assert cases_of({"tests": {"inputs": ["1"], "outputs": ["2"]}}) == (InputOutput("1", "2"),)
    apps = {"inputs": [[1, 2]], "outputs": [[3]], "fn_name": "add"}
    assert cases_of({"tests": apps}) == (Call("add", (1, 2), {}, 3),)


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, "is missing"),
        ([], "is empty"),
        ("[", "is no JSON"),
        ([{"stdin": "1"}], r"tests\[0\] is .*expected"),
        (["a", 5], r"tests\[1\] is 5"),
        ({"inputs": [1], "outputs": []}, "same length"),
    ],
)
async def test_tests_that_cannot_be_used_say_why(tests: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cases_of({"tests": tests})


def test_outputs_and_values_are_compared_as_judges_do() -> None:
    assert same_output(b"1 \n2\n\n", "1\n2")
    assert not same_output(b"1 2", "1\n2")
    assert same_value(0.1 + 0.2, 0.3)
    assert same_value([1, {"a": [2.0]}], [1, {"a": [2]}])
    assert not same_value(True, 1)
    assert not same_value(10**400, 1.0)
    assert not same_value([1], [1, 2])


ADD = [{"call": "add", "args": [1, 2], "expected": 3}, "assert add(2, 2) == 4", {"stdin": "", "stdout": ""}]


@isolated
async def test_programs_are_scored_by_their_tests() -> None:
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return 3"
    method = "class Solution:\n    def add(self, a, b): return a + b"
    found = await asyncio.gather(
        judged(right, ADD),
        judged(wrong, ADD),
        judged(wrong, ADD, scoring="fraction"),
        judged(method, ADD[:1]),
        judged("print(sum(map(int, input().split())))", [{"stdin": "1 2\n", "stdout": "3"}]),
        judged("def add(", ADD),
    )
    assert found == [
        (1.0, {"passed": 3, "tests": 3}),
        (0.0, {"passed": 1, "tests": 3}),
        (2 / 3, {"passed": 2, "tests": 3}),
        (1.0, {"passed": 1, "tests": 1}),
        (1.0, {"passed": 1, "tests": 1}),
        (0.0, {"passed": 0, "tests": 3}),
    ]


@isolated
@pytest.mark.parametrize(
    "source",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "print('true'); print('[\"\", 3]')",
        "class Any:\n    __eq__ = lambda *a: True\ndef add(a, b): return Any()",
        "def add(a, b): raise SystemExit(0)",
        "def add(a, b): print(3)",
        "import json; json.dumps = lambda *a: '3'\ndef add(a, b): return 0",
        "open('/tmp/solution.py', 'w').write('x')",
        "def add(a, b): return float('nan')",
    ],
)
async def test_a_program_cannot_talk_its_way_through_a_call(source: str) -> None:
    assert (await judged(source, ADD[:1]))[0] == 0.0


async def test_ten_thousand_hostile_answers_of_programs_pass_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that have found the word that proves an answer, and those that have not."""
    values = itertools.cycle(
        [
            lambda text: text,
            lambda text: [text, {"set": [text]}, {"dict": [[text, [text]]]}],
            lambda text: {"int": text},
            lambda text: {"Decimal": text},
            lambda text: {"Fraction": [text, 1]},
            lambda text: {"range": [text, 1, 1]},
            lambda text: {"bytes": text},
            lambda text: [[text]],
            lambda text: functools.reduce(lambda held, _: [held], range(500), text),
        ]
    )
    outputs = iter(hostile(10_000))
    asked: list[Any] = []

    async def ended(self: Sandbox, program: Program, wall_s: float) -> Ended:
        asked.append(program)
        output = next(outputs, "")
        question = json.loads(program.stdin.partition(b"\n")[0] or b"{}")
        if "word" in question and len(asked) % 3:
            answer: Any = next(values)(output)
            return Ended(0, json.dumps([question["word"], [answer] if "values" in question else answer]).encode())
        return Ended(0, output.encode("utf-8", errors="surrogatepass"))

    monkeypatch.setattr(Sandbox, "run", ended)
    tests = [
        {"stdin": "", "stdout": "no program prints this"}, {"call": "f", "args": [1], "expected": {"a": [1.5, None]}},
        "assert f(1) == 3", "assert abs(f(1) - 1.5) < 1e-6", "def check(f): assert f(1) == 3\ncheck(f)",
    ]  # fmt: skip
    while len(asked) < 10_000:
        value, _ = await judged("x", tests, scoring="fraction", allow_network=True)
        assert value == 0.0


async def test_a_sample_without_tests_ends_the_rollout() -> None:
    with pytest.raises(RolloutFailed, match=r"sample 0: metadata\.tests is empty"):
        await judged("x", [], allow_network=True)
