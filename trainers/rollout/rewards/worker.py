"""The process that judges for :mod:`trainers.rollout.rewards.pool`: a line of JSON in, a line of JSON out: the
question's number, and the value or (as a string) what is wrong with the question; null when it ended the process."""

import importlib
import json
import logging
import math
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from trainers.rollout.rewards.verdict import Unjudgeable

MEMORY_BYTES = 4 << 30
GRACE_S = 0.5
"""Of processor time, between the deadline and the end of a child that does not mind it."""
ASLEEP_S = 8.0
"""Of the clock's time, beyond the deadline."""
RULES = {
    "math": "trainers.rollout.rewards.equality:judge",
    "reasoning_gym": "trainers.rollout.rewards.gym_judge:judge",
}


class OutOfTime(BaseException):
    """No ``except Exception`` on the way catches it."""


def main() -> None:
    """Import what ``argv[1]`` names, and answer with it. A child does the work: one that had to be ended is replaced
    by a fork, without importing all again."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    module, _, function = RULES[sys.argv[1]].partition(":")
    imported = importlib.import_module(module)
    rule: Callable[..., float] = getattr(imported, function)
    getattr(imported, "warm_up", lambda: None)()
    while True:
        child = os.fork()
        if child == 0:
            _answer(rule, answers)
            os._exit(0)
        os.waitpid(child, 0)
        if _no_more_questions():
            return
        os.write(answers, b"null\n")  # for the question that ended it


def _answer(rule: Callable[..., float], answers: int) -> None:
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.signal(signal.SIGVTALRM, _out_of_time)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while line := _line():
        number, question, deadline_s = json.loads(line)
        # An alarm is an exception, which library code in C may keep from being raised for ever; this one is the end.
        signal.setitimer(signal.ITIMER_PROF, deadline_s + GRACE_S)
        answer = json.dumps([number, _within(deadline_s, rule, question)])
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(answers, answer.encode() + b"\n")


def _no_more_questions() -> bool:
    """Whether standard input was closed. How a child ended says nothing: what it judged may have ended it."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _line() -> bytes:
    """One line of standard input, and not a byte more: what follows is perhaps another child's."""
    data = b""
    while not data.endswith(b"\n"):
        # There is only ever one question under way, so that what can be read ends with it.
        more = os.read(0, 1 << 16)
        if not more:
            return b""
        data += more
    return data


def _within(deadline_s: float, rule: Callable[..., float], question: dict[str, Any]) -> float | str:
    """What the rule says, or 0 when it took too long, or when what it was asked broke it."""
    try:
        # Of the processor's time: a right answer is right on a busy machine, too. And of the clock's, for what sleeps.
        signal.setitimer(signal.ITIMER_VIRTUAL, deadline_s)
        signal.setitimer(signal.ITIMER_REAL, deadline_s + ASLEEP_S)
        try:
            value = float(rule(**question))
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Unjudgeable as error:
        return str(error)
    except (OutOfTime, MemoryError):
        return 0.0
    except Exception:  # libraries that parse what a policy wrote raise anything
        return 0.0
    return value if math.isfinite(value) else 0.0


def _out_of_time(signum: int, frame: FrameType | None) -> None:
    raise OutOfTime


if __name__ == "__main__":
    main()
