"""What a policy may write that no rule should mind."""

import functools
import random

FRAGMENTS = [
    "\\boxed{", "}", "{", "\\frac{1}{2}", "\\frac", "\\sqrt{", "9**9**9", "9^{9^{9}}", "^", "_", "1", "7", "-", "−",
    "=",
    "10^{10^{10}}", "(10!)!", "1e999999999", "nan", "inf", "NaN", "Infinity", "-inf", "1/0", "\\infty", "٣", "½", "７",
    "</think>", "<think>", "Answer: ", "The answer is ", "(B)", "\\text{", "$", "$$", "\n", "\r\n", "\t", " ", "\0",
    "\x1b",
    "\ud800", "\U0001f600", "\u202e", "\u2028", "{,}", "1,234", "\\left(", "\\right)", "\\begin{pmatrix}", "\\\\", "\\",
    "&", "\\int_0^1 x dx", "\\sum_{i=1}^{10^9} i^i", "\\binom{10^9}{10^8}", "\\lim_{x\\to0}", "\\sin(", "x", "y", "%",
    "<answer>", "</answer>", "__import__('os').abort()", "```python\n", "```\n", "yes", "no", "###Response", "1 2",
    "'", '"',
    "None", "[]", "{}", "\\{1,2\\}", "[0,1)", "\\cup", ">", "<", "\\le", "or", "and", "A", "B", "the", "!", ".", ",",
    ";",
]  # fmt: skip
LONG = [
    "1" * 50_000, "-" * 50_000, "1," * 30_000, "\\boxed{" * 5_000, "\\boxed{" + "{" * 5_000 + "5" + "}" * 5_001,
    "}" * 50_000,
    "\\boxed{" + "\\frac{" * 100 + "1" + "}{2}" * 100 + "}", "\\boxed{" + "9" * 5_000 + "}",
    "\\boxed{" + "(" * 900 + "}",
    "\\boxed{" + "\\sqrt{" * 15 + "5" + "}" * 15 + "}", "Answer: " * 10_000, "$" * 50_000, " " * 50_000, "\n" * 50_000,
    "a " * 20_000, "</think>" * 5_000, "<answer>" * 5_000, "```\n" * 5_000, "The answer is (" * 3_000,
    "\\text{" * 5_000,
    "Answer: " + "{" * 290, "Answer: " + "$" * 290, "Answer: " + "\\frac" * 50, "\\" * 50_001, "*" * 50_000,
    "A or " * 10_000,
    "\\boxed{" + "+".join(f"x^{{{i}}}" for i in range(90)) + "}", "\\boxed{" + ",".join("1" * 300) + "}",
]  # fmt: skip


@functools.cache
def hostile(count: int) -> list[str]:
    """Random characters, random fragments in and out of boxes, and long ones; always the same."""
    rng = random.Random(20240607)
    found = list(LONG)
    while len(found) < count:
        match rng.randrange(16):
            case 0:
                found.append("".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(1, 60))))
            case 1:
                inner = "".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 5)))
                found.append(f"</think>\\boxed{{{inner}}}")
            case 2:
                found.append("".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(1, 200))))
            case _:
                found.append("".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 12))))
    return found
