"""The process that judges for :mod:`trainers.rollout.rewards.pool`: a line of JSON in, a number (or what is wrong with
the question, as a string) out."""

import importlib
import json
import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from trainers.rollout.rewards.verdict import Unjudgeable

MEMORY_BYTES = 4 << 30
RULES = {
    "math": "trainers.rollout.rewards.equality:judge",
    "reasoning_gym": "trainers.rollout.rewards.gym:judge",
}


class OutOfTime(BaseException):
    """No ``except Exception`` on the way catches it."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    rules: dict[str, Callable[..., float]] = {}
    signal.signal(signal.SIGALRM, _out_of_time)
    for line in sys.stdin:
        name, question, deadline_s = json.loads(line)
        if name not in rules:
            module, _, function = RULES[name].partition(":")
            rules[name] = getattr(importlib.import_module(module), function)
        answers.write(json.dumps(_within(deadline_s, rules[name], question)) + "\n")
        answers.flush()


def _within(deadline_s: float, rule: Callable[..., float], question: dict[str, Any]) -> float | str:
    """What the rule says, or 0 when it took too long, or when what it was asked broke it."""
    try:
        signal.setitimer(signal.ITIMER_REAL, deadline_s)
        try:
            value = float(rule(**question))
        finally:
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
