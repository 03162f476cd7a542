"""Where in a response its answer stands. All of it is linear in the length of the text."""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_THOUGHT_ENDS = "</think>"
_RESPONSE_BEGINS = "###Response"


def last_boxed(text: str) -> str | None:
    """What the last ``\\boxed{}`` (or ``\\fbox{}``) of a text holds; None when there is none, or when its braces are
    not closed: an earlier box does not stand in for one that was begun."""
    begin = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if begin < 0:
        return None
    opening = _BOX.match(text, begin)
    if opening is None:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            inner = text[opening.end() : brace.start()]
            # rfind found the innermost of nested boxes, so that the content holds no other.
            return inner.strip()
    return None


def after_thoughts(text: str) -> str | None:
    """What follows the last ``</think>``, or else the last ``###Response``; None when a text has neither."""
    for mark in (_THOUGHT_ENDS, _RESPONSE_BEGINS):
        _, found, answer = text.rpartition(mark)
        if found:
            return answer
    return None


def final_answer(text: str) -> str:
    """What follows the last ``</think>``, if there is one: otherwise the whole text."""
    return text.rpartition(_THOUGHT_ENDS)[2]
