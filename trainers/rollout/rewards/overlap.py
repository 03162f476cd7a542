"""SQuAD's F1: the words that response and label have in common.

The measure and its normalisation are those of the evaluation of SQuAD 1.1 (Rajpurkar et al., 2016); that an answer of
yes, no or noanswer only ever equals itself is HotpotQA's (Yang et al., 2018).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_CLOSED = {"yes", "no", "noanswer"}


def words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def golds(label: Any) -> list[str]:
    """The answers that a label gives: itself, or the elements of a list."""
    if isinstance(label, Sequence) and not isinstance(label, str):
        return [str(each) for each in label]
    return [str(label)]


def f1(response: str, label: Any) -> float:
    """The best F1 over the label's answers, in [0, 1]; 0 when either side has no words."""
    said = words(response)
    return max((_f1(said, words(gold)) for gold in golds(label)), default=0.0)


def _f1(said: list[str], gold: list[str]) -> float:
    if not said or not gold:
        return 0.0
    if said != gold and (_closed(said) or _closed(gold)):
        return 0.0
    common = (Counter(said) & Counter(gold)).total()
    return 2 * common / (len(said) + len(gold))


def _closed(answer: list[str]) -> bool:
    return len(answer) == 1 and answer[0] in _CLOSED
