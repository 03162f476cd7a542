"""A policy with a calculator. Whenever it writes ``3+4=``, the calculator writes ``7`` behind it, and the policy goes
on. What the calculator wrote is read and not trained on."""

import re

from engines.config import SamplingConfig
from engines.types import Sample
from trainers.rollout.conversation import Conversation
from trainers.rollout.protocols import RolloutContext

MAX_CALLS = 2


async def generate(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> Sample:
    conversation = Conversation.begin(context, sample, sampling)
    calls, answer = 0, ""
    while not conversation.exhausted:
        turn = await conversation.generate(stop=["="])
        answer = turn.text
        result = calculate(turn.text)
        if result is None or calls == MAX_CALLS or not conversation.append_text(result):
            break
        answer, calls = result, calls + 1
    return conversation.finish(metadata={"tool_calls": calls, "answer": answer})


def calculate(text: str) -> str | None:
    """The sum of what the policy asks for at the end of ``text``; None: it asks for nothing."""
    asked = re.search(r"(\d{1,6})\+(\d{1,6})=$", text)
    return str(int(asked[1]) + int(asked[2])) if asked else None


def reward(sample: Sample) -> float:
    """1 for the right answer, by whatever way; a little for a call, so that the policy learns that there is a tool."""
    right = sample.metadata.get("answer") == sample.label
    return float(right) or 0.1 * min(sample.metadata.get("tool_calls", 0), 1)
