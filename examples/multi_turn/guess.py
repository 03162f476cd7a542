"""Guess the number: the policy guesses, the environment says higher or lower, and the sooner it is right the more it is
paid. One sample is one whole game; the environment's words in it are read and not trained on."""

from engines.config import SamplingConfig
from engines.types import Sample
from trainers.rollout.conversation import Conversation
from trainers.rollout.protocols import RolloutContext

# The model of the quickstart knows digits, + and = alone.
HIGHER, LOWER = "+", "="
MAX_GUESSES = 4
GUESS_TOKENS = 2


async def play(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> Sample:
    number = int(sample.label)
    conversation = Conversation.begin(context, sample, sampling)
    guesses: list[str] = []
    for _ in range(MAX_GUESSES):
        if conversation.exhausted:
            break
        turn = await conversation.generate(max_new_tokens=GUESS_TOKENS)
        guesses.append(turn.text)
        hint = answer(turn.text, number)
        if hint is None:
            return conversation.finish(reward=1 / len(guesses), metadata={"guesses": guesses})
        if len(guesses) < MAX_GUESSES and not conversation.append_user(hint):
            break
    return conversation.finish(reward=0.0, metadata={"guesses": guesses})


def answer(guess: str, number: int) -> str | None:
    """What the environment says; None: that is it. What is no number is taken for too low."""
    if not (guess.isascii() and guess.isdecimal()) or int(guess) < number:
        return HIGHER
    return LOWER if int(guess) > number else None
