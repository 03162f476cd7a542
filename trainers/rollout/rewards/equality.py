"""Whether two mathematical answers are the same. Imported by a worker alone: importing takes
seconds, and parsing and simplifying may take for ever."""

import re
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

MAX_ANSWER = 1000
"""Characters; no answer to a question with one answer is longer."""
MAX_DEPTH = 20
MAX_DIGITS = 400
_SPACING = re.compile(r"\\[,;:!> ]|\\q?quad(?![A-Za-z])|[\s$~]+")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\{([^{}]*)\}")
_GROUPED = re.compile(r"(?<=[0-9])(?:,|\{,\})(?=[0-9]{3}(?![0-9]))")
_PLAIN = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_TEN_TO = re.compile(r"(?:\\times|\\cdot|\*)(?=10\^)")
# Towers of powers, powers of powers and factorials that no memory holds.
_HUGE = re.compile(r"\^[{(]*[-+]?[0-9.]+[})]*!?\^|\^[{(]*[-+]?[0-9]{5,}|[)}]!|!!|[0-9]{4,}!")
_UNDONE = re.compile(
    r"\\(?:times|cdot|div|ast|pm|mp)(?![A-Za-z])|(?<=[0-9A-Za-z)}!])\s*[-+*−×·÷]|[0-9)}]\s*\(|\)\s*[0-9]"
)
_OPERATORS = re.compile(r"\\(?:i{1,3}nt|oint|sum|prod|lim|binom|dbinom|tbinom|choose|diff|frac\{d)(?![A-Za-z])")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_(?:\{[^{}]*\}|[A-Za-z0-9]))?'?(?:\([A-Za-z0-9, ]*\))?")


def tidy(answer: Any) -> str:
    """An answer without what only sets its type: spacing, sizes, ``$``, text wrappers, commas between thousands."""
    text = str(answer).strip()
    text = _TEXT.sub(r"\1", _SIZES.sub("", text)).replace("−", "-").replace("\\dfrac", "\\frac")
    text = _SPACING.sub("", text.replace("\\tfrac", "\\frac").replace("\\$", "").replace("\\%", "%"))
    return _GROUPED.sub("", text.rstrip("."))


def judge(*, answer: str, label: str) -> float:
    """1 when ``answer`` equals ``label``, letter for letter once tidied or as math-verify compares what both parse
    to; 0 otherwise, also for an answer that only restates what was to be worked out."""
    ours, expected = tidy(answer), tidy(label)
    if not ours or not expected:
        return 0.0
    if ours == expected:
        return 1.0
    if not _reasonable(ours) or not _reasonable(expected) or not _worked_out(ours, expected):
        return 0.0
    return float(_same(answer.strip().rstrip("."), label.strip().rstrip(".")))


def _reasonable(answer: str) -> bool:
    if len(answer) > MAX_ANSWER or _HUGE.search(answer) or re.search(rf"[0-9]{{{MAX_DIGITS}}}", answer):
        return False
    depth = deepest = 0
    for character in answer:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest <= MAX_DEPTH


def _worked_out(answer: str, label: str) -> bool:
    if _OPERATORS.search(answer) and not _OPERATORS.search(label):
        return False
    sides = answer.split("=")
    if len(sides) > label.count("=") + 1 and (len(sides) > 2 or not _NAME.fullmatch(sides[0])):
        return False  # 4=5 is no way to say 5; x=5 is
    return not (_PLAIN.fullmatch(label) and _UNDONE.search(_TEN_TO.sub("", sides[-1])))


def _same(answer: str, label: str) -> bool:
    def parsed(text: str) -> list[Any]:
        text = text.replace("$", "")
        return parse(
            f"${text}$", extraction_config=[LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=0
        )

    expected = parsed(label)
    if not expected:
        return False
    ours = parsed(answer)
    return bool(ours) and verify(expected, ours, strict=True, timeout_seconds=None)
