"""The reward for a program: its tests, each in a jail of its own."""

import asyncio
import json
import math
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from engines.types import Sample
from trainers.config.reward import CodeRewardConfig
from trainers.errors import RolloutFailed
from trainers.rollout.rewards.answer import final_answer
from trainers.rollout.rewards.code.cases import Assertion, Call, Case, InputOutput, cases_of, same_output, same_value
from trainers.rollout.rewards.code.sandbox import Limits, Program, Sandbox, python_argv, require_isolation
from trainers.rollout.rewards.verdict import Verdict

MAX_SOURCE = 100_000
"""Characters."""
_FENCE = re.compile(r"^[ \t]*```[ \t]*([A-Za-z0-9_+-]*)[^\n]*$", re.MULTILINE)
_PYTHON = {"python", "python3", "py", ""}
_SOLUTION = "/tmp/solution.py"
_HARNESS = "/tmp/harness.py"


def program_of(response: str) -> str | None:
    """The last closed Python block (```) after ``</think>``; None when there is none. A block that was begun and not
    closed does not count, and neither does one before it."""
    text = final_answer(response)
    found: str | None = None
    language, begin = "", -1
    for fence in _FENCE.finditer(text):
        if begin < 0:
            language, begin = fence[1].lower(), fence.end() + 1
        else:
            if language in _PYTHON:
                found = text[begin : fence.start()]
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
        if isinstance(case, InputOutput):
            program = Program(python_argv(_SOLUTION), _bytes(case.stdin), {_SOLUTION: source})
            ended = await self._sandbox.run(program, wall_s)
            return ended.status == 0 and same_output(ended.output, case.stdout)
        word = secrets.token_hex(16)
        files = {_SOLUTION: source, _HARNESS: self._harness}
        program = Program(python_argv(_HARNESS, _SOLUTION), _question(case, word), files)
        ended = await self._sandbox.run(program, wall_s)
        if ended.status != 0:
            return False
        try:
            said, value = json.loads(ended.output)
        except (ValueError, TypeError, RecursionError):
            return False
        return said == word and same_value(value, case.expected if isinstance(case, Call) else True)


def _question(case: Call | Assertion, word: str) -> bytes:
    if isinstance(case, Assertion):
        return json.dumps({"word": word, "assert": case.source}).encode() + b"\n"
    asked = {"word": word, "call": case.function, "args": case.args, "kwargs": case.kwargs}
    return json.dumps(asked).encode() + b"\n"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")
