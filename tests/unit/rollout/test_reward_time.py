"""A rule that reads a response in the event loop takes a time that grows with the response's length and no faster, so
that no response can hold the rollout up."""

import time
from collections.abc import Callable

import pytest

from trainers.rollout.rewards.answer import last_boxed
from trainers.rollout.rewards.choice import chosen
from trainers.rollout.rewards.code.judge import program_of
from trainers.rollout.rewards.dapo import dapo
from trainers.rollout.rewards.gym import answer_of
from trainers.rollout.rewards.number import last_number
from trainers.rollout.rewards.overlap import f1

HEADS = ("", "answer", "The answer is", "answer is option", "Answer:", "A is", "\\boxed{", "\\text{", "```", "<answer>")
FILLS = (
    *(" ", "\t", "\n", " \n", "*", "_", "(", "[", "{", "\\", "$", "=", "-", "'", "`", ")", "]", "}", ".", ",", "1"),
    *("1,", "A", "A ", "A or ", "answer", "answer ", "option ", "is ", "* ", "_ *", "<answer>", "</answer>"),
    *("</think>", "``` \n", "\\text{", "\\boxed{", "sqrt"),
)
TAILS = ("", "!", "A!")
LENGTH = 20_000
SHORT = 1_900
"""Within what ``gpqa`` reads of the end."""


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(lambda text: chosen(text, {}), id="gpqa"),
        pytest.param(lambda text: dapo(text, "5", strict_box=False), id="dapo"),
        pytest.param(lambda text: f1(text, "a cat"), id="f1"),
        pytest.param(last_number, id="last_number"),
        pytest.param(last_boxed, id="boxed"),
        pytest.param(answer_of, id="reasoning_gym"),
        pytest.param(program_of, id="code"),
    ],
)
def test_no_run_of_characters_makes_a_rule_slow(rule: Callable[[str], object]) -> None:
    slow: list[tuple[str, str, str, int]] = []
    for head in HEADS:
        for fill in FILLS:
            for tail in TAILS:
                for length in (SHORT, LENGTH):
                    text = head + fill * (length // len(fill)) + tail
                    begin = time.thread_time()
                    rule(text)
                    if time.thread_time() - begin > 0.15:
                        slow.append((head, fill, tail, length))
    assert not slow


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<answer>1</answer> no, <answer> 2 </answer>", "2"),
        ("<answer>1</answer> and <answer>2", "1"),
        ("<answer>1<answer>2</answer>", "2"),
        ("<answer>1</answer></answer>", "1"),
        ("</answer><answer>", "</answer><answer>"),
        ("<answer>1</answer></think> 2 ", "2"),
        (" 7 ", "7"),
    ],
)
def test_the_last_closed_tag_holds_the_answer(response: str, answer: str) -> None:
    assert answer_of(response) == answer
