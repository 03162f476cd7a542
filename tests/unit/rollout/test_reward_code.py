"""Programs run apart: what they may not do, and how their tests are counted."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from engines.types import Sample, SampleStatus
from trainers.config.reward import CodeRewardConfig
from trainers.errors import ConfigInvalid, RolloutFailed
from trainers.rollout.rewards.code import sandbox
from trainers.rollout.rewards.code.cases import Assertion, Call, InputOutput, cases_of, same_output, same_value
from trainers.rollout.rewards.code.judge import CodeReward, program_of
from trainers.rollout.rewards.code.sandbox import Ended, Limits, Program, Sandbox, isolation_refused, python_argv

LIMITS = Limits(cpu_s=1, memory_bytes=256 << 20, file_bytes=4 << 20, processes=8, output_bytes=10_000)
isolated = pytest.mark.skipif(isolation_refused() is not None, reason=f"no isolation here: {isolation_refused()}")


async def run(source: str, stdin: bytes = b"", wall_s: float = 10.0) -> Ended:
    program = Program(python_argv("/tmp/program.py"), stdin, {"/tmp/program.py": source})
    return await Sandbox(LIMITS, isolated=True).run(program, wall_s)


def trying(statement: str) -> str:
    """A program that says whether the system refused a statement."""
    return f"import os, socket\ntry:\n    {statement}\n    print('done')\nexcept OSError as e: print('refused')"


@isolated
@pytest.mark.parametrize(
    "statement",
    [
        "socket.create_connection(('127.0.0.1', 22), 1)",
        "socket.create_connection(('8.8.8.8', 53), 1)",
        "socket.getaddrinfo('localhost', 80)",
        "open('/etc/passwd')",
        "os.listdir('/proc')",
        f"open({__file__!r})",
        "open('/usr/x', 'w')",
        "open('/x', 'w')",
        "os.setuid(0)",
        "os.mkdir('/dev/x')",
        "open('big', 'wb').write(bytes(5 << 20))",
        "[open(str(i), 'wb').write(bytes(1 << 20)) for i in range(9)]",
        "[open(str(i), 'wb') for i in range(3000)]",
        "[os.fork() or __import__('time').sleep(9) for _ in range(9)]",
        "os.kill(1, 9) or os.kill(1, 0) or (_ for _ in ()).throw(OSError())",
    ],
)
async def test_the_system_refuses_a_program_everything_but_itself(statement: str) -> None:
    ended = await run(trying(statement))
    assert b"done" not in ended.output
    assert ended.output.strip() == b"refused" or ended.status != 0


@isolated
async def test_a_program_computes_reads_and_writes_its_own_files() -> None:
    ended = await run("open('f','w').write('7'); print(int(open('f').read()) + int(input()))", b"5\n")
    assert ended == Ended(0, b"12\n")


@isolated
@pytest.mark.parametrize(
    ("source", "wall_s"),
    [
        ("while True: pass", 10.0),
        ("9**9**9", 10.0),
        ("x = bytes(10**9)", 10.0),
        ("while True: print('x' * 1000)", 10.0),
        ("import time; time.sleep(60)", 0.1),
        ("import os; os.close(1); os.close(2); __import__('time').sleep(60)", 0.1),
        ("import os; os.kill(os.getpid(), 11)", 10.0),
    ],
)
async def test_a_program_that_takes_too_much_is_ended(
    source: str, wall_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "START_S", 1.0)
    started = time.monotonic()
    ended = await run(source, wall_s=wall_s)
    assert ended.status != 0
    assert time.monotonic() - started < 10.0


@isolated
async def test_nothing_outlives_its_program() -> None:
    # The child holds standard output open: the run ends only when the child has ended, too.
    source = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(60)\nprint('parent done', flush=True)"
    started = time.monotonic()
    assert (await run(source)).output == b"parent done\n"
    assert time.monotonic() - started < 8.0


def test_where_nothing_can_be_isolated_code_is_refused_unless_the_job_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "isolation_refused", lambda: "unshare: Operation not permitted")
    with pytest.raises(ConfigInvalid, match=r"Operation not permitted.*set allow_network"):
        CodeReward(CodeRewardConfig())
    assert CodeReward(CodeRewardConfig(allow_network=True))


async def test_without_isolation_limits_still_hold_in_a_directory_of_its_own() -> None:
    box = Sandbox(LIMITS, isolated=False)
    source = "import os; print(os.listdir(), len(os.getcwd()) > 5)"
    program = Program(python_argv("/tmp/program.py"), b"", {"/tmp/program.py": source})
    assert await box.run(program, 10.0) == Ended(0, b"['program.py'] True\n")
    endless = Program(python_argv("/tmp/program.py"), b"", {"/tmp/program.py": "while True: pass"})
    assert (await box.run(endless, 10.0)).status != 0


async def test_without_isolation_what_a_program_leaves_behind_holds_nobody_up() -> None:
    source = """
import os, time
child = os.fork()
if child:
    print(child, flush=True)
else:
    os.setsid()
    os.close(1)
    time.sleep(60)
"""
    program = Program(python_argv("/tmp/program.py"), b"", {"/tmp/program.py": source})
    async with asyncio.timeout(30):
        ended = await Sandbox(LIMITS, isolated=False).run(program, 1.0)
    os.kill(int(ended.output), signal.SIGKILL)  # it was still there


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\na\n```\ntext\n```\nb\n```\n", "b\n"),
        ("```python\na\n```\n```sh\nls\n```", "a\n"),
        ("```python\na\n```\n```python\nb", None),
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


async def judged(source: str, tests: list[Any], **fields: Any) -> tuple[float, dict[str, Any]]:
    judge = CodeReward(CodeRewardConfig(case_timeout_s=2.0, memory_mb=256, **fields))
    response = f"Here:\n```python\n{source}\n```"
    verdict = await judge(
        Sample(0, 0, prompt="", response=response, status=SampleStatus.COMPLETED, metadata={"tests": tests})
    )
    return verdict.value, dict(verdict.parts or {})


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


async def test_a_sample_without_tests_ends_the_rollout() -> None:
    with pytest.raises(RolloutFailed, match=r"sample 0: metadata\.tests is empty"):
        await judged("x", [], allow_network=True)
