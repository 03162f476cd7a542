"""What each shipped rule must say, worked out by hand or from the rule's publication: (response, label, reward)."""

from typing import Any

type Case = tuple[str, Any, float]

# Equal or not by mathematics itself, whatever a library thinks.
EQUAL: list[tuple[str, str]] = [
    ("5", "5"), ("5", "5.0"), ("-4", "−4"), ("7", "07"), ("7", "7."), ("5", "$5$"), ("5", "\\$5"), ("5", "x=5"),
    ("5", "x = 5"), ("5", "f(2) = 5"), ("5", "(5)"), ("5", "\\text{5}"), ("5", "5 \\text{ cm}"), ("5", "5\\,"),
    ("\\frac{1}{2}", "0.5"), ("\\frac12", "\\dfrac{1}{2}"), ("0.5", "\\frac{1}{2}"), ("\\frac{1}{2}", "1/2"),
    ("-\\frac{1}{2}", "\\frac{-1}{2}"), ("\\frac{3}{2}", "1\\frac12"), ("\\frac{2}{3}", "\\frac{4}{6}"),
    ("1000", "1,000"), ("1,000,000", "1000000"), ("1000", "1{,}000"), ("1024", "2^{10}"), ("0.001", "10^{-3}"),
    ("300000", "3 \\times 10^5"), ("300000", "3 \\cdot 10^{5}"), ("120", "120^\\circ"), ("23", "+23"),
    ("23", "23.0"), ("23", "(23)"), ("23", "\\{23\\}"), ("23", "\\textit{23}"), ("23", "23 \\text{ cm}^2"),
    ("23", "\\approx 23"), ("3.14", "x \\approx 3.14"), ("23", "\\$23.00"), ("23", "\\(23\\)"), ("23", "23;"),
    ("23", "n \\equiv 23"),
    ("23", "23 \\text{ km/h}"), ("23", "23\\text{rd}"), ("23", "n = 23"), ("23", "\\angle A = 23^{\\circ}"),
    ("23 \\text{ cm}", "23"), ("x = 23", "23"), ("60^\\circ", "60"), ("1000", "10^3"), ("1000", "1\\,000"),
    ("-8", "(-2)^3"), ("10111", "10111_2"), ("0.5", "50\\%"), ("50\\%", "\\frac12"), ("\\frac12", ".5"),
    ("-0.5", "\\frac{1}{-2}"), ("\\frac12", "P = \\frac{2}{4}"), ("\\frac12", "\\frac12\\text{ cm}"),
    ("\\frac{1}{8}", "\\left(\\frac{1}{2}\\right)^3"), ("0.125", "\\frac{1}{2^3}"), ("1.5", "1\\frac{1}{2}"),
    ("2\\sqrt{3}", "\\sqrt{12}"), ("\\sqrt{2}", "\\sqrt{2}"), ("2^{10}", "1024"),
    ("2\\sqrt{2}", "\\sqrt{8}"), ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"), ("\\pi", "\\pi"),
    ("(x+1)^2", "x^2+2x+1"), ("x^2 + 2x + 1", "1 + 2x + x^2"), ("\\frac{x^2-1}{x-1}", "x+1"), ("2x", "x \\cdot 2"),
    ("1+2i", "2i+1"), ("y=2x+1", "y = 1 + 2x"), ("(1,2)", "(1, 2)"), ("(1,2)", "\\left(1, 2\\right)"),
    ("\\{1,2\\}", "\\{2,1\\}"), ("[0,1)", "[0, 1)"), ("[0,1) \\cup (2,3]", "(2,3] \\cup [0,1)"),
    ("x>1", "1<x"), ("\\infty", "\\infty"), ("\\text{east}", "\\text{east}"), ("C", "\\text{C}"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"), ("e^{2}", "e^2"),
    ("\\frac{1}{3}", "\\frac{1}{3} \\approx 0.333"), ("2\\sqrt{3}", "x = 2\\sqrt{3} \\approx 3.46"),
    ("\\pi", "\\pi \\approx 3.14"), ("\\log_2 3", "\\log_2 3 ≈ 1.58"), ("23", "\\theta_1 \\approx 23^\\circ"),
    ("10", "10\\,\\text{N}\\cdot\\text{m}"), ("5", "5 \\text{ kg}\\cdot\\text{m/s}"),
    ("10", "10\\ \\mathrm{m\\,s^{-1}}"), ("7", "7\\mathrm{~g}\\cdot\\mathrm{cm}^{-3}"), ("5", "5\\text{ in}^4"),
    ("5", "5\\textrm{ cm}"), ("5", "\\textnormal{5}\\thinspace"), ("0.5", "\\cfrac{1}{2}"), ("0.5", "{1 \\over 2}"),
    ("\\frac32", "3:2"), ("1024", "2^{{10}}"), ("5", "\\lbrace 5\\rbrace"), ("5", '"5"'), ("5", "x \\in \\{5\\}"),
    ("73", "m+n = 73"), ("307", "100m + n = 307"), ("12", "x^2+y^2 = 12"),
    ("\\frac{3}{5}", "\\sin \\theta = \\frac{3}{5}"),
    ("5", "|AB| = 5"), ("5", "\\overline{AB} = 5"), ("12", "[ABC] = 12"), ("12", "f(2)+f(3) = 12"), ("60", "60°"),
    ("\\frac12", "P(A \\mid B) = \\frac12"), ("(1,2)", "(x, y) = (1, 2)"), ("(x,y)=(1,2)", "(1,2)"), ("-5", "–5"),
    ("2,3", "x=2,\\ x=3"), ("2,3", "x = 2 \\text{ or } x = 3"), ("(2,3)", "x=2, y=3"), ("\\emptyset", "\\varnothing"),
    ("\\lfloor n/2 \\rfloor", "\\left\\lfloor \\frac{n}{2} \\right\\rfloor"), ("\\gcd(a,b)", "\\gcd(a, b)"),
    ("\\log_2 3", "\\log_2(3)"), ("50\\%", "50\\%"), ("1" * 300, "1" * 300),
]  # fmt: skip
DIFFERENT: list[tuple[str, str]] = [
    ("5", "6"), ("5", "-5"), ("5", "50"), ("5", "0.5"), ("5", "5, 6"), ("5", "5 \\text{ or } 6"), ("5", "\\{5,6\\}"),
    ("5", "five"), ("5", ""), ("5", "\\infty"), ("5", "nan"), ("5", "x"), ("5", "4=5"), ("5", "x=4=5"), ("5", "6=5"),
    ("5", "5=4"), ("5", "5 \\pm 1"), ("391", "17 \\cdot 23"), ("391", "17\\times23"), ("391", "17*23"), ("391",
    "390+1"),
    ("391", "(17)(23)"), ("391", "392-1"), ("5", "\\int_0^5 1 dx"), ("55", "\\sum_{i=1}^{10} i"), ("6",
    "\\binom{4}{2}"),
    ("5", "\\lim_{x\\to5}x"), ("(1,2)", "(2,1)"), ("[0,1)", "(0,1)"), ("[0,1)", "[0,1]"), ("x>1", "x\\geq 1"),
    ("\\frac13", "0.33"), ("\\pi", "3.14"), ("\\sqrt{2}", "1.41"), ("x", "y"), ("x+1", "x-1"),
    ("1" * 21, "1" * 20 + "0"), ("\\text{east}", "\\text{west}"), ("A", "B"), ("3", "٣x"), ("0", "10^{-20}"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"), ("1000", "1,00"), ("5",
    "\\boxed{"),
    # What was to be worked out and was not: 391 = 17·23, 529 = 23², 46 = 2·23, 69 = 3·23.
    ("23", "391/17"), ("23", "\\frac{391}{17}"), ("23", "\\dfrac{46}{2}"), ("23", "x = \\frac{46}{2}"), ("23", "46:2"),
    ("23", "\\sqrt{529}"), ("23", "529^{1/2}"), ("23", "529^{0.5}"), ("23", "\\gcd(46,69)"), ("23", "\\max(3,23)"),
    ("23", "\\min(23,30)"), ("23", "\\binom{23}{1}"), ("23", "|-23|"), ("23", "\\left|-23\\right|"),
    ("23", "\\lfloor 23.7 \\rfloor"), ("23", "\\lceil 22.5 \\rceil"), ("23", "\\ln(e^{23})"), ("23", "23\\cos 0"),
    ("23", "-(-23)"), ("23", "23x^0"), ("23", "\\frac{23\\pi}{\\pi}"), ("23.0", "\\frac{46}{2}"),
    ("23", "\\det\\begin{pmatrix}23&0\\\\0&1\\end{pmatrix}"), ("3", "\\log_{10}(1000)"), ("3", "\\log_{10} 1000"),
    ("3", "\\log_2 8"), ("120", "5!"), ("1", "\\sin(\\pi/2)"), ("-1", "i^2"), ("1", "e^0"), ("23 \\text{ cm}",
    "\\sqrt{529}"),
    ("x = 23", "\\sqrt{529}"), ("\\$23", "\\sqrt{529}"), ("23^\\circ", "\\frac{46^\\circ}{2}"), ("0.5",
    "\\frac{\\sqrt{4}}{4}"),
    ("\\frac12", "\\sin(\\pi/6)"), ("\\frac12", "\\cos\\frac{\\pi}{3}"), ("\\frac56", "\\frac12+\\frac13"),
    ("\\frac16", "\\frac{\\frac12}{3}"), ("\\frac{1}{120}", "\\frac{1}{5!}"), ("2\\sqrt{3}",
    "\\max(1, 2\\sqrt{3})"),
    ("23", "\\frac{46}{2} \\approx 23"), ("23", "x = \\frac{46}{2} ≈ 23"), ("391", "17\\text{ m}\\cdot 23"),
    ("23", "{46 \\over 2}"), ("x+1 \\equiv 0", "x+1 \\equiv 3"), ("\\sqrt{x} \\approx 3", "\\sqrt{x} \\approx 4"),
    ("5", "x \\ne 5"), ("5", "x \\not= 5"), ("5", "x != 5"), ("x = 23", "4 = 23"), ("x = 23", "x <= 23"),
    ("5", "x <= 5"), ("5", "x=4, x=5"), ("2x+3", "3y = 2x+3"),
    ("5", "m+n = 4 = 5"), ("23", "m+n = \\sqrt{529}"), ("23", "\\sin 0 = 23"), ("x", "\\max x"),
    ("(1,2)", "(x,y)=(2,1)"), ("2,3", "x=2, 4=3"),
    ("5", "9^{9^{9}}"), ("5", "(10!)!"), ("5", "1e999999999"), ("5", "[5"), ("5", "5\\%6"),
]  # fmt: skip

MATH: list[Case] = [
    ("so \\boxed{5}", "5", 1), ("so \\fbox{5}", "5", 1), ("5", "5", 0), ("the answer is 5", "5", 0), ("", "5", 0),
    ("\\boxed{4} no, \\boxed{5}", "5", 1), ("\\boxed{5} no, \\boxed{4}", "5", 0),  # the last box counts
    ("\\boxed{5} and \\boxed{", "5", 0), ("\\boxed{5", "5", 0), ("\\boxed 5", "5", 0), ("\\boxed{}", "5", 0),
    ("\\boxed{\\boxed{5}}", "5", 1), ("\\boxed{\\frac{1}{\\boxed{2}}}", "\\frac12", 0), ("\\boxed{\\{1,2\\}}",
    "\\{1,2\\}", 1),
    ("\\boxed{4}\\boxed{5}", "5", 1), ("<think>\\boxed{4}</think>\\boxed{5}", "5", 1), ("\\boxed{5}", 5, 1),
    ("\\boxed{0.5}", 0.5, 1), ("\\boxed{5}", "We get \\boxed{5}.", 1), ("$\\boxed{5}$", "5", 1),
]  # fmt: skip
DEEPSCALER: list[Case] = [
    ("<think>hm</think>\\boxed{5}", "5", 1), ("hm</think>so \\boxed{5}.", "5", 1), ("\\boxed{5}", "5", 0),
    ("<think>\\boxed{5}</think>", "5", 0), ("<think>\\boxed{5}</think> it is 5", "5", 0),
    ("</think>\\boxed{5}</think>\\boxed{4}", "5", 0), ("</think>\\boxed{5}</think>", "5", 0),
    ("hm ###Response \\boxed{5}", "5", 1), ("<think>\\boxed{4}</think>\\boxed{\\frac{10}{2}}", "5", 0),
    ("<think>\\boxed{4}</think>\\boxed{\\frac{10}{20}}", "0.5", 1),
]  # fmt: skip
DAPO: list[Case] = [
    ("Answer: 5", "5", 1), ("Answer: 6", "5", -1), ("5", "5", -1), ("", "5", -1), ("answer:5", "5", 1),
    ("Answer: $5$", "5", 1), ("Answer: 4\nAnswer: 5", "5", 1), ("Answer: 5\nAnswer: 4", "5", -1),
    ("Answer: 5" + " " * 300, "5", -1), ("Answer: x = 5", "5", 1), ("Answer: 1,000", "1000", 1),
    ("Answer: \\boxed{5}", "5", 1), ("Answer: 5 dollars", "5", 1), ("Answer: $\\frac12$", "\\frac{1}{2}", 1),
    ("Answer: \\sqrt2", "\\sqrt{2}", 1), ("Answer: 5.", "5", -1), ("Answer: 0.5", "\\frac12", -1),
    ("Answer: the value is $7$ as said", "7", 1), ("Answer: 60^\\circ", "60", 1), ("Answer: \\text{cat}", "cat", 1),
    ("Answer:", "5", -1), ("Answer: $", "5", -1), ("The Answer: 5", 5, 1),
]  # fmt: skip
F1: list[Case] = [
    ("the cat sat", "cat sat", 1.0), ("The Cat, sat!", "a cat sat", 1.0), ("cat", "cat sat", 2 / 3), ("dog", "cat", 0),
    ("cat cat", "cat", 2 / 3), ("", "cat", 0), ("the", "cat", 0), ("yes", "yes", 1), ("yes it is", "yes", 0),
    ("no", "yes", 0), ("a b c d", "c d e f", 4 / 7), ("cat", ["dog", "cat"], 1), ("red cat", ["cat", "red dog"], 2 / 3),
    ("7", 7, 1),
]  # fmt: skip
CHOICES = {"choices": ["red", "green", "blue", "light blue"]}
GPQA: list[Case] = [
    ("The answer is B.", "B", 1), ("The answer is (B)", "B", 1), ("Answer: B", "B", 1), ("**Answer:** B", "B", 1),
    ("answer: **B**", "B", 1), ("The correct answer is option B", "B", 1), ("\\boxed{B}", "B", 1), ("B", "B", 1),
    ("\\boxed{\\text{B}}", "B", 1), ("\\boxed{\\text{(B)}}", "B", 1), ("(B)", "B", 1), ("B.", "B", 1),
    ("Answer: $\\boxed{B}$", "B", 1), ("so B is correct", "B", 1), ("Answer: A\nno wait\nAnswer: B", "B", 1),
    ("Answer: B\nno wait\nAnswer: A", "B", 0), ("<think>Answer: A</think>B", "B", 1), ("</think>", "B", 0),
    ("<think>Answer: B</think>A", "B", 0), ("Answer: A or B", "B", 0), ("Answer: A, B, C, D", "A", 0),
    ("Answer: A/B", "A", 0), ("Answer: (A) (B) (C) (D)", "A", 0), ("Answer: A B C D", "A", 0), ("Answer: A; B", "A", 0),
    ("Answer: **A** **B**", "A", 0), ("Answer: A | B", "A", 0), ("Answer: B A good one.", "B", 1),
    ("Answer: B\nA is wrong", "B", 1), ("\\boxed{\\text{B) green}}", "B", 1),
    ("\\boxed{\\textbf{(B)}\\ green}", "B", 1),
    ("\\boxed{(D)\\text{ light}~\\text{blue}}", "D", 1), ("\\boxed{\\text{A) green}}", "A", 0),
    ("\\boxed{A, B}", "B", 0), ("\\boxed{B} \\boxed{A}", "B", 0), ("Answer: E", "B", 0),
    ("A B C D", "B", 0), ("Answer: b", "B", 0), ("Because", "B", 0), ("The answer is Absurd", "A", 0), ("", "B", 0),
    ("green", "B", 1), ("The answer is green", "B", 1), ("\\boxed{green}", "B", 1), ("B) green", "B", 1),
    ("A) green", "B", 0), ("B) red", "B", 0), ("light blue", "C", 0), ("light blue", "D", 1), ("green", "green", 1),
    ("Answer: B", "green", 1), ("Answer: B", 1, 1), ("Answer: A", 1, 0), ("red or green", "B", 0), ("Answer: B",
    "(B)", 1),
]  # fmt: skip
EXACT_MATCH: list[Case] = [("7", "7", 1), (" 7\n", "7 ", 1), ("7", 7, 1), ("07", "7", 0), ("x 7", "7", 0), ("", "7", 0)]
LAST_NUMBER: list[Case] = [
    ("3+4 is 7", "7", 1), ("first 7, then 8", "7", 0), ("$1,234.50.", 1234.5, 1), ("1,234", "#### 1234", 1),
    ("7.0", 7, 1), ("−4", -4, 1), ("3-4", -4, 0), ("٧", 7, 0), ("", 7, 0),
]  # fmt: skip
REGEX_MATCH: list[Case] = [("abbb", "ab+", 1), ("abbbc", "ab+", 0), ("(a", "\\(a", 1), ("", "", 1), ("x", "(", 0)]

CASES: dict[str, list[Case]] = {
    "math": MATH
    + [(f"\\boxed{{{a}}}", b, 1.0) for b, a in EQUAL]
    + [(f"\\boxed{{{a}}}", b, 0.0) for b, a in DIFFERENT],
    "deepscaler": DEEPSCALER,
    "dapo": DAPO,
    "f1": F1,
    "gpqa": GPQA,
    "exact_match": EXACT_MATCH,
    "last_number": LAST_NUMBER,
    "regex_match": REGEX_MATCH,
}
