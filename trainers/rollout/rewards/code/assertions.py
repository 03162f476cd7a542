"""Assertions taken apart: what the program must answer, and what is made of its answers where the program is not.

Of ``assert sorted(f(3)) == [1, 2]`` the program is asked for ``sorted(f(3))``, and ``_answer(0) == [1, 2]`` is asserted
elsewhere: it never sees what is expected, and an object that equals everything is no plain data.
"""

import ast
import builtins
import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, override

from trainers.rollout.rewards.code.harness import COMPARISONS, decode

_BUILTINS = frozenset(dir(builtins))
USABLE = frozenset(
    {"abs", "all", "any", "bool", "bytes", "complex", "dict", "divmod", "enumerate", "filter", "float", "frozenset"}
    | {"int", "isinstance", "len", "list", "map", "max", "min", "pow", "range", "reversed", "round", "set", "sorted"}
    | {"str", "sum", "tuple", "zip"}
)
"""Builtins that what is left may use: none that would run a text of the program's."""
_PLAIN_MODULES = {"math", "cmath", "collections", "decimal", "fractions"}
"""What these return can be compared with plain data; what others do, perhaps only with objects of theirs."""
_ANSWER = "_answer"
_MAX_QUICK = 20_000
"""Bytes of answers that are compared here: so few that no choice of numbers makes a set of them slow."""


@dataclass(frozen=True, slots=True)
class Split:
    """An assertion taken apart."""

    imports: str
    asked: tuple[str, ...]
    """Expressions that the program's process evaluates."""
    tests: tuple[ast.expr, ...]
    """What must be true of the answers, ``_answer(0)`` and so on."""

    @property
    def source(self) -> str:
        """The test as a program that does not need the one that is tested."""
        return "\n".join([self.imports, *(f"assert {ast.unparse(test)}" for test in self.tests)])


class _Inseparable(Exception):
    """A test that cannot be taken apart."""


@functools.lru_cache(maxsize=256)  # a group's samples have the same tests
def split(source: str) -> Split | None:
    """Take a test apart; None when it has more than imports and assertions, or an assertion does not say which of its
    values are the program's (as one that compares two of them)."""
    try:
        body = ast.parse(source).body
        imports = [each for each in body if isinstance(each, ast.Import | ast.ImportFrom)]
        asserts = [each for each in body if isinstance(each, ast.Assert)]
        if not asserts or len(imports) + len(asserts) < len(body):
            return None
        modules = dict(_imported(imports))
        asked: list[str] = []
        tests = tuple(_rest(each.test, modules, asked) for each in asserts)
        return Split("\n".join(map(ast.unparse, imports)), tuple(asked), tests)
    except (_Inseparable, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imported(imports: Iterable[ast.Import | ast.ImportFrom]) -> Iterable[tuple[str, str]]:
    """Names, and the modules that they are of."""
    for each in imports:
        for alias in each.names:
            if alias.name == "*":
                raise _Inseparable
            module = each.module or "" if isinstance(each, ast.ImportFrom) else alias.name
            yield alias.asname or alias.name.split(".")[0], module.split(".")[0]


def _rest(test: ast.expr, modules: dict[str, str], asked: list[str]) -> ast.expr:
    """What is left of an assertion once ``asked`` has been answered."""
    before = len(asked)
    rest = _Asker(_BUILTINS | modules.keys(), _bound(test), asked).truth(test)
    plain = {name for name, module in modules.items() if module in _PLAIN_MODULES}
    # Where nothing was asked, the program's function has a builtin's name.
    if len(asked) == before or _loaded(rest) - _bound(rest) - USABLE - plain - {_ANSWER}:
        raise _Inseparable
    return rest


def _bound(node: ast.AST) -> frozenset[str]:
    """Names that comprehensions and lambdas give values to."""
    return frozenset(
        each.arg if isinstance(each, ast.arg) else each.id
        for each in ast.walk(node)
        if isinstance(each, ast.arg) or (isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store))
    )


def _loaded(node: ast.AST) -> frozenset[str]:
    return frozenset(
        each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
    )


class _Asker(ast.NodeTransformer):
    """Replaces what is the program's by its answers."""

    def __init__(self, known: frozenset[str], bound: frozenset[str], asked: list[str]) -> None:
        self._known = known
        self._bound = bound
        self._asked = asked

    def truth(self, node: ast.expr) -> ast.expr:
        """An expression of which only the truth matters."""
        match node:
            case ast.BoolOp(op, values):
                return ast.BoolOp(op, [self.truth(each) for each in values])
            case ast.UnaryOp(ast.Not(), operand):
                return ast.UnaryOp(ast.Not(), self.truth(operand))
            case ast.Compare(left, [ast.Is() | ast.Eq() | ast.IsNot() | ast.NotEq() as sign], [ast.Constant(None)]) if (
                self._is_call(left)
            ):
                is_none = self._ask(ast.Compare(left, [ast.Is()], [ast.Constant(None)]))
                return is_none if isinstance(sign, ast.Is | ast.Eq) else ast.UnaryOp(ast.Not(), is_none)
            case ast.Compare(left, [ast.Eq() | ast.NotEq()], [right]) if self._is_value(left) and self._is_known(right):
                return ast.Compare(self._ask(left), node.ops, [right])
            case ast.Compare(left, [ast.Eq() | ast.NotEq()], [right]) if self._is_known(left) and self._is_value(right):
                return ast.Compare(left, node.ops, [self._ask(right)])
            case _ if self._is_call(node):  # may be any object: its truth is asked for, not what it should be
                return self._ask(ast.Call(ast.Name("bool", ast.Load()), [node], []))
            case _:
                return self.visit(node)

    @override
    def visit(self, node: ast.AST) -> Any:
        match node:
            case ast.Call() if self._is_call(node):
                return self._ask(node)
            case ast.NamedExpr():
                raise _Inseparable
            case ast.Attribute(attr=name) if name.startswith("_"):
                raise _Inseparable
            case ast.Compare(left, _, others) if sum(map(self._has_programs, (left, *others))) > 1:
                raise _Inseparable  # the program's values with one another: they may be of its own classes
            case _:
                return self.generic_visit(node)

    def _is_call(self, node: ast.expr) -> bool:
        """Whether it is a call of the program's function, or of a method of its class: ``Solution().f(1)``."""
        match node:
            case ast.Call(ast.Name(name)):
                return name not in self._known | self._bound and not name[0].isupper()
            case ast.Call(ast.Attribute(ast.Call(ast.Name(name)), method)):
                return name not in self._known | self._bound and name[0].isupper() and not method.startswith("_")
            case _:
                return False

    def _is_value(self, node: ast.expr) -> bool:
        """Whether the program may be asked for all of it: it makes something of the program's values, and compares
        nothing, which an object could answer as it likes."""
        compares = any(isinstance(each, ast.Compare | ast.BoolOp | ast.Not | ast.NamedExpr) for each in ast.walk(node))
        return self._has_programs(node) and not compares

    def _is_known(self, node: ast.expr) -> bool:
        """Whether it is without the program, and not so easily guessed that an object's methods could say it: a truth,
        None, 0 or 1."""
        guessed = isinstance(node, ast.Constant) and node.value in (True, False, None)
        return not self._has_programs(node) and not guessed

    def _has_programs(self, node: ast.expr) -> bool:
        return bool(_loaded(node) - self._known - _bound(node))

    def _ask(self, node: ast.expr) -> ast.expr:
        if _loaded(node) & (self._bound - _bound(node)):
            raise _Inseparable  # it needs a value of the test's
        self._asked.append(ast.unparse(node))
        return ast.Call(ast.Name(_ANSWER, ast.Load()), [ast.Constant(len(self._asked) - 1)], [])


def holds(tests: Sequence[ast.expr], answers: list[Any]) -> bool | None:
    """Whether tests are true of encoded answers. None when that takes more than comparing a few values with literals:
    it is then for another jail to say."""
    try:
        if len(json.dumps(answers)) > _MAX_QUICK or not all(map(_is_simple, tests)):
            return None
        return all(_holds(test, answers) for test in tests)
    except Exception:
        return False  # the program sent what is no value


def _is_simple(test: ast.expr) -> bool:
    match test:
        case ast.UnaryOp(ast.Not(), operand):
            return _is_simple(operand)
        case ast.Compare(left, [ast.Eq() | ast.NotEq()], [right]):
            return all(_answer_of(each) is not None or _is_literal(each) for each in (left, right))
        case _:
            return _answer_of(test) is not None


def _holds(test: ast.expr, answers: list[Any]) -> bool:
    match test:
        case ast.UnaryOp(ast.Not(), operand):
            return not _holds(operand, answers)
        case ast.Compare(left, [sign], [right]):
            return bool(COMPARISONS[type(sign).__name__](_value(left, answers), _value(right, answers)))
        case _:
            return bool(_value(test, answers))


def _value(node: ast.expr, answers: list[Any]) -> Any:
    at = _answer_of(node)
    return ast.literal_eval(node) if at is None else decode(answers[at])


def _answer_of(node: ast.expr) -> int | None:
    match node:
        case ast.Call(ast.Name(name), [ast.Constant(int() as at)]) if name == _ANSWER:
            return at
        case _:
            return None


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True


def guarded(source: str) -> str:
    """A test that must run in the program's process, with its comparisons made by the harness. As it is when it is no
    Python."""
    try:
        return ast.unparse(ast.fix_missing_locations(_Guard().visit(ast.parse(source))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source


class _Guard(ast.NodeTransformer):
    """Comparisons of two values through ``_compare``."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Compare(left, [sign], [right]) if type(sign).__name__ in COMPARISONS:
                name = ast.Constant(type(sign).__name__)
                return ast.Call(ast.Name("_compare", ast.Load()), [name, left, right], [])
            case _:
                return node
