"""Tests with statements, which run in a process beside the program's: its functions are called from afar, with plain
data, so that the program never sees what is expected of them."""

import ast
import builtins
import functools
from collections import deque
from dataclasses import dataclass
from typing import override

from trainers.rollout.rewards.code.assertions import USABLE

_BUILTINS = frozenset(dir(builtins))
_ERRORS = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}  # fmt: skip
_USABLE = USABLE | _ERRORS | {"bin", "chr", "hex", "iter", "next", "oct", "ord", "print", "repr", "slice", "type"}
"""Builtins that a test may use: none that would run a text of the program's."""
_MODULES = frozenset(
    {
        "bisect",
        "cmath",
        "collections",
        "copy",
        "decimal",
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "json",
        "math",
    }
    | {"operator", "random", "re", "statistics", "string", "time", "typing"}
)
"""What these make of plain data is plain data, or is not compared with what a program returns."""
_METHODS = frozenset(
    name
    for kind in (str, bytes, list, tuple, dict, set, int, float, complex, deque, range)
    for name in dir(kind)
    if not name.startswith("_")
)
_METHOD = "_method"


@dataclass(frozen=True, slots=True)
class Separated:
    """A test that runs beside the program."""

    source: str
    functions: tuple[str, ...]
    """The program's, by the names that the test calls them by."""


class _Together(Exception):
    """A test that must run in the program's process."""


@functools.lru_cache(maxsize=256)  # a group's samples have the same tests
def separated(source: str) -> Separated | None:
    """The test for a process of its own; None when it does more with the program than to call functions, or methods of
    a ``Solution()``, as one that reads attributes of what they return."""
    try:
        tree = ast.parse(source)
        methods = _Methods()
        tree = ast.fix_missing_locations(methods.visit(tree))
        names = _Names(tree)
        for node in ast.walk(tree):
            names.check(node)
        if not names.functions and not methods.found:
            return None
        imports = "".join(f"import {module}\n" for module in sorted(names.modules_unbound))
        return Separated(imports + ast.unparse(tree), tuple(sorted(names.functions)))
    except (_Together, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Methods(ast.NodeTransformer):
    """``Solution().f`` as ``_method("Solution().f")``."""

    def __init__(self) -> None:
        self.found = False

    @override
    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        match node:
            case ast.Attribute(ast.Call(ast.Name(name), [], []), method) if (
                name[0].isupper() and name not in _BUILTINS and not method.startswith("_")
            ):
                self.found = True
                return ast.Call(ast.Name(_METHOD, ast.Load()), [ast.Constant(ast.unparse(node))], [])
            case _:
                self.generic_visit(node)
                return node


class _Names:
    """Whose name is whose."""

    def __init__(self, tree: ast.AST) -> None:
        nodes = list(ast.walk(tree))
        self._stored = {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
        self._defined = {each.name for each in nodes if isinstance(each, ast.FunctionDef)}
        self._arguments = {each.arg for each in nodes if isinstance(each, ast.arg)}
        self._imported = {
            alias.asname or alias.name.split(".")[0]
            for each in nodes
            if isinstance(each, ast.Import | ast.ImportFrom)
            for alias in each.names
        }
        caught = {each.name for each in nodes if isinstance(each, ast.ExceptHandler) and each.name}
        own = self._stored | self._defined | self._arguments | self._imported | caught | {_METHOD}
        loaded = {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
        others = loaded - own - _BUILTINS
        self.modules_unbound = others & _MODULES
        """Perhaps the program imports them; the test may then do without."""
        self.functions = others - _MODULES
        if (loaded & _BUILTINS) - own - _USABLE or not all(name[0].islower() for name in self.functions):
            raise _Together
        # A name for one of the program's functions may be called, and any other variable may hold what one returned.
        self._aliases = {
            each.targets[0].id
            for each in nodes
            if isinstance(each, ast.Assign)
            and isinstance(each.targets[0], ast.Name)
            and isinstance(each.value, ast.Name)
            and each.value.id in self.functions
        }
        self._called = {id(each.func) for each in nodes if isinstance(each, ast.Call)}

    def check(self, node: ast.AST) -> None:
        """Raise :class:`_Together` for what only works beside the program's own objects."""
        match node:
            case ast.ClassDef() | ast.AsyncFunctionDef() | ast.Await():
                raise _Together
            case ast.Import(aliases) if not {each.name for each in aliases} <= _MODULES:
                raise _Together
            case ast.ImportFrom(module, aliases, level) if (
                module not in _MODULES or level or any(each.name == "*" for each in aliases)
            ):
                raise _Together
            case ast.Attribute(value, name):
                module = isinstance(value, ast.Name) and value.id in self._imported | self.modules_unbound
                function = isinstance(value, ast.Name) and value.id in self.functions
                plain = id(node) in self._called and name in _METHODS and not function
                if name.startswith("_") or not (module or plain):
                    raise _Together
            case ast.Call(ast.Call(ast.Name(name))) if name != _METHOD:
                raise _Together
            case ast.Call(ast.Name(name)) if name in self._stored - self._aliases - self._defined:
                raise _Together
            case ast.Call(func) if not isinstance(func, ast.Name | ast.Attribute | ast.Call):
                raise _Together
            case _:
                pass
