"""The whole numbers of a shell's ``$((…))`` and ``((…))``."""

import ast
import operator
import re
from collections.abc import Callable, Mapping

_NAME = re.compile(r"\$?\{?([A-Za-z_]\w*)\}?")
_CHANGES = re.compile(
    r"([A-Za-z_]\w*)\s*(?:\+\+|--|(?:[-+*/%&|^]|<<|>>)?=(?!=))|(?:\+\+|--)\s*([A-Za-z_]\w*)"  # not ==
)
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Div: lambda left, right: left // right,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def compute(text: str, values: Mapping[str, list[str]]) -> int | None:
    """What ``text`` comes to; None: only a shell knows."""
    if "#" in text:  # 16#ff, which is a comment in Python
        return None
    filled = _NAME.sub(lambda match: (values.get(match[1]) or [match[0]])[0], text)
    try:
        return _number(ast.parse(filled.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def changed_names(text: str) -> set[str]:
    """The names that ``text`` gives another value."""
    return {match[1] or match[2] for match in _CHANGES.finditer(text)}


def _number(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _number(node.left), _number(node.right)
        if isinstance(node.op, (ast.Div, ast.FloorDiv, ast.Mod)) and (left < 0 or right < 0):
            raise ValueError("a shell rounds towards zero")
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        return int(_COMPARISONS[type(node.ops[0])](_number(node.left), _number(node.comparators[0])))
    raise ValueError("not a sum of numbers")
