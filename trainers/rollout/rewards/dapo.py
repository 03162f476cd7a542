"""DAPO's rule (Yu et al., 2025): the response's end says "Answer:" and the label.

Two answers are compared letter for letter, once both are normalised as Minerva's are (Lewkowycz et al., 2022,
appendix D). The steps and their order are those that were published, oddities included, so that rewards compare.
"""

import re
from typing import Any

from trainers.rollout.rewards.answer import last_boxed

TAIL = 300
STRICT_TAIL = 100
_ANSWER = re.compile(r"(?i)answer\s*:\s*([^\n]+)")

_REPLACED = (
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
)  # fmt: skip
_REMOVED = (
    "square", "ways", "integers", "dollars", "mph", "inches", "hours", "km", "units", "\\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}",
    "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
)  # fmt: skip
_UNWRAPPED = (
    (re.compile(r"^([^$\n]*)\$([^$\n]*)\$[^\n]*"), r"$\2$"),
    (re.compile(r"\\text\{([^\n}]*)\}"), r"\1"),
    (re.compile(r"\\textbf\{([^\n}]*)\}"), r"\1"),
    (re.compile(r"\\overline\{([^\n}]*)\}"), r"\1"),
    (re.compile(r"\\boxed\{([^\n]*)\}"), r"\1"),
    (re.compile(r"(frac)([^{])(.)"), r"frac{\2}{\3}"),
    (re.compile(r"(sqrt)([^{])"), r"sqrt{\2}"),
)


def normalize(answer: str) -> str:
    """Minerva's normal form of a final answer."""
    text = answer.rpartition("=")[2]
    for old, new in _REPLACED:
        text = text.replace(old, new)
    for expression in _REMOVED:
        text = text.replace(expression, "")
    for pattern, replacement in _UNWRAPPED:
        text = pattern.sub(replacement, text)
    text = text.replace("$", "")
    digits = text.replace(",", "")
    return (digits if digits.isdigit() else text).strip()


def predicted(response: str, *, strict_box: bool) -> str | None:
    """The answer that a response gives; None when it gives none where one is looked for."""
    if strict_box:
        return last_boxed(response[-STRICT_TAIL:])
    stated = _ANSWER.findall(response[-TAIL:])
    return normalize(stated[-1]) if stated else None


def dapo(response: str, label: Any, *, strict_box: bool) -> dict[str, Any]:
    """``score`` 1 or −1, ``acc`` 1 or 0, and ``pred``, the answer that was found ("[INVALID]" for none). An answer of
    which nothing is left once it is normalised is wrong."""
    answer = predicted(response, strict_box=strict_box)
    expected = str(label) if strict_box else normalize(str(label))
    right = bool(answer) and answer == expected
    return {"score": 1.0 if right else -1.0, "acc": float(right), "pred": "[INVALID]" if answer is None else answer}
