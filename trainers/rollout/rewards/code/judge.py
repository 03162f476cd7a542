"""The reward for a program: its tests, each in a jail of its own."""

import asyncio
import json
import math
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.types import Sample
from trainers.config.reward import CodeRewardConfig
from trainers.errors import RolloutFailed
from trainers.rollout.rewards.answer import final_answer
from trainers.rollout.rewards.code.assertions import guarded, holds, split
from trainers.rollout.rewards.code.cases import Assertion, Call, Case, InputOutput, cases_of, same_output, same_value
from trainers.rollout.rewards.code.sandbox import Limits, Program, Sandbox, python_argv, require_isolation
from trainers.rollout.rewards.code.separation import separated
from trainers.rollout.rewards.verdict import Verdict

MAX_SOURCE = 100_000
"""Characters."""
_FENCE = re.compile(r"^([ \t]*)```[ \t]*([A-Za-z0-9_+-]*)[^\n]*$", re.MULTILINE)
_PYTHON = {"python", "python3", "py", ""}
_SOLUTION = "/tmp/solution.py"
_HARNESS = "/tmp/harness.py"


def program_of(response: str) -> str | None:
    """The last closed Python block (```) after ``</think>``; None when there is none. A block that was begun and not
    closed does not count, and neither does one before it."""
    text = final_answer(response)
    found: str | None = None
    indent, language, begin = 0, "", -1
    for fence in _FENCE.finditer(text):
        if begin < 0:
            indent, language, begin = len(fence[1]), fence[2].lower(), fence.end() + 1
        else:
            if language in _PYTHON:
                # In a list, all of a block is indented as its fence is.
                found = re.sub(rf"^[ \t]{{0,{indent}}}", "", text[begin : fence.start()], flags=re.MULTILINE)
            begin = -1
    if begin >= 0 and language in _PYTHON:
        return None
    return found


class CodeReward:
    """Runs the program of a response against the tests of its sample."""

    def __init__(self, config: CodeRewardConfig) -> None:
        """Raises ConfigInvalid where no program can be isolated and ``allow_network`` does not allow to go without."""
        self._config = config
        limits = Limits(
            cpu_s=math.ceil(config.case_timeout_s),
            memory_bytes=config.memory_mb << 20,
            file_bytes=config.file_mb << 20,
            processes=config.max_processes,
            output_bytes=config.max_output_kb << 10,
        )
        isolated = require_isolation("code", allow_network=config.allow_network)
        self._sandbox = Sandbox(limits, isolated=isolated)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._harness = Path(__file__).with_name("harness.py").read_text(encoding="utf-8")

    async def __call__(self, sample: Sample) -> Verdict:
        """1, 0 or the fraction of the tests that pass; those that did not run before ``reward.timeout_s`` are failed.
        Waiting for others' tests is not counted. Raises RolloutFailed for a sample without usable tests."""
        try:
            cases = cases_of(sample.metadata)
        except ValueError as error:
            raise RolloutFailed(f"sample {sample.index}: {error}") from None
        source = program_of(sample.response)
        if source is None or len(source) > MAX_SOURCE:
            passed = 0
        else:
            passed = await self._passed(source, cases)
        value = passed / len(cases) if self._config.scoring == "fraction" else float(passed == len(cases))
        return Verdict(value, {"passed": passed, "tests": len(cases)})

    async def _passed(self, source: str, cases: Sequence[Case]) -> int:
        """How many tests pass; when all must, those after the first that fails are not run."""
        passed, left_s = 0, self._config.timeout_s
        clock = asyncio.get_running_loop().time
        for case in cases:
            async with self._slots:
                begun = clock()
                right = left_s > 0 and await self._passes(source, case, min(self._config.case_timeout_s, left_s))
                left_s -= clock() - begun
            passed += right
            if not right and (self._config.scoring == "all" or left_s <= 0):
                break
        return passed

    async def _passes(self, source: str, case: Case, wall_s: float) -> bool:
        match case:
            case InputOutput(stdin, stdout):
                program = Program(python_argv(_SOLUTION), _bytes(stdin), {_SOLUTION: source})
                ended = await self._sandbox.run(program, wall_s)
                return ended.status == 0 and same_output(ended.output, stdout)
            case Call(function, args, kwargs, expected):
                said = await self._answer(source, {"call": function, "args": args, "kwargs": kwargs}, wall_s)
                return bool(said) and same_value(said[0], expected)
            case Assertion(test):
                return await self._holds(source, test, wall_s)

    async def _holds(self, source: str, test: str, wall_s: float) -> bool:
        """Whether an assertion is true: in the program's own process only where it cannot be taken apart."""
        parts = split(test)
        if parts is None and (beside := separated(test)):
            question = {"test": beside.source, "functions": beside.functions}
            said = await self._answer(source, question, wall_s, apart=True)
            if said != (None,):  # the test hands over objects of its own
                return said == (True,)
        if parts is None:
            return await self._answer(source, {"assert": guarded(test)}, wall_s) == (True,)
        said = await self._answer(source, {"values": parts.asked, "imports": parts.imports}, wall_s)
        if not said or not isinstance(said[0], list) or len(said[0]) != len(parts.asked):
            return False
        true = holds(parts.tests, said[0])
        if true is None:
            question = {"assert": parts.source, "answers": said[0]}
            true = await self._answer("", question, wall_s) == (True,)
        return true

    async def _answer(
        self, source: str, question: dict[str, Any], wall_s: float, *, apart: bool = False
    ) -> tuple[()] | tuple[Any]:
        """What the harness answers, a value of JSON, when the program has run; nothing when it does not. ``apart``: the
        program runs in a process of its own."""
        word = secrets.token_hex(16)
        asked = json.dumps({"word": word} | question).encode() + b"\n"
        argv = python_argv(_HARNESS, _SOLUTION, *(["apart"] if apart else []))
        program = Program(argv, asked, {_SOLUTION: source, _HARNESS: self._harness})
        ended = await self._sandbox.run(program, wall_s)
        if ended.status != 0:
            return ()
        try:
            said, value = json.loads(ended.output)
        except (ValueError, TypeError, RecursionError):
            return ()
        return (value,) if said == word else ()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")
