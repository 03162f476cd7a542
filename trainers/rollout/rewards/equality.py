"""Whether two mathematical answers are the same. Imported by a worker alone: importing takes
seconds, and parsing and simplifying may take for ever."""

import re
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

MAX_ANSWER = 1000
"""Characters; no answer to a question with one answer is longer."""
MAX_DEPTH = 20
MAX_DIGITS = 400
_SPACING = re.compile(r"\\[,;:!>() ]|\\(?:q?quad|enspace|thinspace|medspace)(?![A-Za-z])|[\s$~]+")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|text(?:bf|rm|normal)|mathrm|mathbf|mbox)\{([^{}]*)\}")
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}")
_TWICE = re.compile(r"\{\{([^{}]*)\}\}")
_GROUPED = re.compile(r"(?<=[0-9])(?:,|\{,\})(?=[0-9]{3}(?![0-9]))")
# Towers of powers, powers of powers and factorials that no memory holds.
_HUGE = re.compile(r"\^[{(]*[-+]?[0-9.]+[})]*!?\^|\^[{(]*[-+]?[0-9]{5,}|[)}]!|!!|[0-9]{4,}!")
_OPERATORS = re.compile(
    r"\\(?:i{1,3}nt|oint|sum|prod|lim|[dt]?binom|choose|diff|[dtc]?frac\s*\{\s*d|gcd|max|min|det|lfloor|lceil)(?![A-Za-z])"
)
_EQUALS = re.compile(r"\\(?:approx|simeq|equiv|doteq)(?![A-Za-z])|[≈≃≡]")
_APPROXIMATION = re.compile(r"(?:\\approx(?![A-Za-z])|≈)[\s$]*[-+]?[0-9.]")
_LETTERS = re.compile(r"(?<![A-Za-z\\])[A-Za-df-z]")  # but e
_NAME = re.compile(r"\\?[A-Za-z]+(?:_(?:\{[^{}]*\}|[A-Za-z0-9]))?'?(?:\([A-Za-z0-9, ]*\))?|")
"""What a value may be called: x, f(2), a_1, or nothing, as in =5."""
_NAMES = re.compile(rf"(?:{_NAME.pattern})|\((?:{_NAME.pattern})(?:,(?:{_NAME.pattern}))*\)")
_UNKNOWN = re.compile(rf"{_LETTERS.pattern}|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|varphi|omega|overline)")
"""What a calculation does not hold, and what stands for a value does: m+n, |AB|, \\sin\\theta."""
_RELATION = re.compile(r"[<>!:≠≤≥]|\\(?:not|ne|le|ge)")
_LISTED = re.compile(r"[,;](?![^()]*\))|and|or")
_CONSTANTS = ("\\pi", "e")
_MEMBER = re.compile(rf"(?P<name>{_NAME.pattern})\\in(?=\\\{{)")

# How a number that has been worked out is written, once tidied. All that is not listed here is a calculation.
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"[-+]?{_DECIMAL}"
_EXPONENT = r"(?:-?[0-9]+|\{[-+]?[0-9]+\}|\([-+]?[0-9]+\))"
_POWER = rf"(?:{_DECIMAL}|\({_SIGNED}\)|\{{{_SIGNED}\}})\^{_EXPONENT}"
_WHOLE = rf"(?:{_DECIMAL}(?:\\times|\\cdot|\*)10\^{_EXPONENT}|{_POWER}|{_DECIMAL})"
_PART = rf"(?:{_POWER}|{_SIGNED}|\((?:{_POWER}|{_SIGNED})\)|\{{(?:{_POWER}|{_SIGNED})\}})"
_FRACTION = (
    rf"(?:[0-9]*\\frac(?:[0-9]|\{{[-+]?{_PART}\}})(?:[0-9]|\{{[-+]?{_PART}\}})|{_PART}[/:]{_PART})"  # 1\frac12 is 3/2
)
_OPEN = (
    r"(?:[({\[\"]|\\\{|\\displaystyle|\\(?:boxed|boldsymbol|emph|fbox|math(?:bb|it|sf|tt)|text(?:it|rm|sf|tt))(?=\{))*"
)
# A unit, a degree sign, an ordinal's letters, a base and closing brackets: nothing that changes or holds a number.
_TAIL = (
    r"(?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]+\}))?"
    r"(?:[^\W\d_]|(?<=[^\W\d_])(?:[(\[/]|[·⋅]|\\cdot(?=[A-Za-z\\]))|[)}\]%.,;:'\"°]|\\\}"
    r"|\^(?:\\circ|\{\\circ\}|\{?-?[1-9]\}?)|\\(?:mathrm|text(?:rm|normal)?)\{"
    r"|\\(?:circ|degree|mu|Omega|ell|prime|[lc]?dots)(?![A-Za-z]))*"
)
_WORKED_OUT_WHOLE = re.compile(rf"{_OPEN}[-+]?{_OPEN}{_WHOLE}{_TAIL}")
_WORKED_OUT = re.compile(rf"{_OPEN}[-+]?{_OPEN}(?:{_WHOLE}|{_FRACTION}|\({_FRACTION}\)\^{_EXPONENT}){_TAIL}")
_LABEL_SIGN = r"(?:\^(?:\\circ|\{\\circ\})|°)?"
_LABEL_WHOLE = re.compile(rf"[-+]?[0-9]+(?:\.0*)?{_LABEL_SIGN}")
_LABEL_NUMBER = re.compile(rf"(?:{_SIGNED}|[-+]?{_FRACTION})(?:%|{_LABEL_SIGN})")


def tidy(answer: Any) -> str:
    """An answer without what only sets its type: spacing, sizes, ``$``, text wrappers, commas between thousands, and
    what ends a sentence; and without the approximation that follows an exact one."""
    text = _exact(_ascii(str(answer).strip()))
    text = _TEXT.sub(r"\1", _SIZES.sub("", text)).replace("\\varnothing", "\\emptyset")
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", _OVER.sub(r"\\frac{\1}{\2}", text))
    text = re.sub(r"\\([lr])brace(?![A-Za-z])", lambda match: "\\{" if match[1] == "l" else "\\}", text)
    text = _SPACING.sub("", text.replace("\\$", "").replace("\\%", "%"))
    text = _MEMBER.sub(r"\g<name>=", _TWICE.sub(r"{\1}", text), count=1)
    return _GROUPED.sub("", text.lstrip("=").rstrip(".,;\\"))


def _ascii(text: str) -> str:
    """Signs as LaTeX writes them."""
    return text.replace("−", "-").replace("–", "-").replace("°", "^\\circ ")


def _exact(text: str) -> str:
    """Without the decimal that approximates the exact value before it. After a name, or nothing, it is the value."""
    found = _APPROXIMATION.search(text)
    if found is not None:
        value = _SPACING.sub("", _TEXT.sub("", text[: found.start()])).rpartition("=")[2]
        named = _NAME.fullmatch(value) is not None and value not in _CONSTANTS
        if not named and not _LETTERS.search(value) and value.count("{") == value.count("}"):
            text = text[: found.start()]
    return _EQUALS.sub("=", text)


def judge(*, answer: str, label: str) -> float:
    """1 when ``answer`` equals ``label``, letter for letter once tidied or as math-verify compares what both parse
    to; 0 otherwise, also for an answer that only restates what was to be worked out."""
    ours, expected = tidy(answer), tidy(label)
    if not ours or not expected:
        return 0.0
    if ours == expected:
        return 1.0
    if not _reasonable(ours) or not _reasonable(expected):
        return 0.0
    if _OPERATORS.search(answer) and not _OPERATORS.search(label):
        return 0.0
    form = _form_of(label)
    if not _worked_out(ours, expected, form):
        return 0.0
    if form is not None:  # what a number is called is not compared
        ours, value = ours.rpartition("=")[2], answer.rpartition("=")[2]
        answer = value if value.count("{") == value.count("}") else answer
    if _value_of(ours) == expected:
        return 1.0
    return float(_same(answer.strip().rstrip("."), label.strip().rstrip(".")))


def warm_up() -> None:
    """Let the libraries import what they import when it is first used: no answer is to wait for that."""
    for answer, label in (
        ("\\frac{n^2+n}{2}", "\\frac{n(n+1)}{2}"),
        ("e^{\\frac{i\\pi}{3}}", "e^{i\\pi/3}"),
        ("(0,1]", "[0,1)"),
    ):
        judge(answer=answer, label=label)


def _value_of(answer: str) -> str:
    """Of a tidied answer, without what it is called."""
    name, _, value = answer.rpartition("=")
    return value if _NAMES.fullmatch(name) else answer


def _reasonable(answer: str) -> bool:
    if len(answer) > MAX_ANSWER or _HUGE.search(answer) or re.search(rf"[0-9]{{{MAX_DIGITS}}}", answer):
        return False
    depth = deepest = 0
    for character in answer:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest <= MAX_DEPTH


def _worked_out(answer: str, label: str, form: re.Pattern[str] | None) -> bool:
    """Whether a tidied answer does more than restate the question. For a number it must be a number itself."""
    most = 0 if form else max(each.count("=") for each in _LISTED.split(label))
    for each in [answer] if form else _LISTED.split(answer):
        name, sign, _ = each.rpartition("=")
        if each.count("=") > most and not (sign and _names(name, of_number=form is not None)):
            return False  # 4=5 is no way to say 5; x=5 is
    return form is None or form.fullmatch(answer.rpartition("=")[2]) is not None


def _names(left: str, *, of_number: bool) -> bool:
    """Whether the left side of an equation says what its right side is the value of. A number may be that of m+n, too;
    of an expression, 3y=2x+1 says something else."""
    if _NAMES.fullmatch(left):
        return True
    return of_number and "=" not in left and bool(_UNKNOWN.search(left)) and not _RELATION.search(left)


def _form_of(label: str) -> re.Pattern[str] | None:
    """How an answer to a label must be written; None when the label is no plain number. No fraction in lowest terms
    is a whole number, so that for a whole one a fraction is a calculation, too."""
    for text in (tidy(label), tidy(_TEXT.sub("", label))):  # with its words, and without: 23 cm is a number
        number = _value_of(text)
        if _LABEL_WHOLE.fullmatch(number):
            return _WORKED_OUT_WHOLE
        if _LABEL_NUMBER.fullmatch(number):
            return _WORKED_OUT
    return None


def _same(answer: str, label: str) -> bool:
    def parsed(text: str) -> list[Any]:
        text = _exact(_ascii(text).replace("\\$", "").replace("$", "")).replace("\\varnothing", "\\emptyset")
        return parse(
            f"${text}$", extraction_config=[LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=0
        )

    expected = parsed(label)
    if not expected:
        return False
    ours = parsed(answer)
    return bool(ours) and verify(expected, ours, strict=True, timeout_seconds=None)
