"""Whether a function has the signature that its door calls."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CONTAINERS = frozenset(
    {"list", "tuple", "Sequence", "Iterable", "Mapping", "dict", "Awaitable", "Coroutine", "Optional", "Union"}
)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Form:
    """One way of writing a door's function: what it is called with, by position and by keyword, and what it returns."""

    parameters: tuple[str, ...]
    returns: tuple[str, ...] = ()
    """Names of types that a return annotation may hold, besides containers; empty: None."""
    shown: str = "None"
    """The return type in full."""
    keywords: tuple[str, ...] = ()
    """Given by keyword to those that take them."""
    is_async: bool | None = None
    """True: must be; False: must not be; None: may be."""
    methods: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of a class: each method and what it is called with."""

    def __str__(self) -> str:
        parts = [*self.parameters, *(f"{name}=…" for name in self.keywords)]
        made = f"({', '.join(parts)}) -> {self.shown}"
        if self.methods:
            return f"class{made.split(' -> ')[0]} with " + ", ".join(f"{m}({', '.join(p)})" for m, p in self.methods)
        return f"{'async ' if self.is_async else ''}{made}"


def is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """None for some functions written in C, which do not know theirs."""
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        return None


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a value can be given as the keyword ``name``."""
    if (signature := signature_of(function)) is None:
        return False
    return name in signature.parameters or any(
        each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values()
    )


def misfit(signature: inspect.Signature | None, form: Form) -> str | None:
    """Why ``form`` cannot call a function with ``signature``; None if it can."""
    if signature is None:
        return None
    try:
        signature.bind(*form.parameters)
    except TypeError as error:
        return str(error)
    return None


def names_of(signature: inspect.Signature | None) -> list[str]:
    """The parameters that take a value by position."""
    if signature is None:
        return []
    return [name for name, each in signature.parameters.items() if each.kind in _POSITIONAL]


def out_of_order(signature: inspect.Signature | None, form: Form) -> str | None:
    """Says that a parameter stands where another is expected: a call would hand it the wrong value."""
    for at, name in enumerate(names_of(signature)[: len(form.parameters)]):
        bare = name.lstrip("_")
        if bare != form.parameters[at] and bare in form.parameters:
            return f"parameter {at + 1} is {name!r}, but is given {form.parameters[at]!r}"
    return None


def wants_args(signature: inspect.Signature | None) -> bool:
    """Whether it is written for slime: one of its parameters is ``args``."""
    if signature is None:
        return False
    return any(
        name.lstrip("_") == "args" or "Namespace" in str(signature.parameters[name].annotation)
        for name in names_of(signature)
    )


def wrong_return(signature: inspect.Signature | None, form: Form) -> str | None:
    """Says that the return annotation, if there is one, promises something else than the door takes."""
    if signature is None or signature.return_annotation is inspect.Signature.empty:
        return None
    annotation = signature.return_annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    found = {word.split(".")[-1] for word in re.findall(r"[A-Za-z_][\w.]*", text)} - _CONTAINERS
    own = found - {"None", "NoneType"}
    if own & {"Any", "object"} or not form.returns:
        return None  # what is returned to a door that takes nothing is dropped
    taken = set(form.returns)
    if not own:
        return None if "None" in taken or found == set() else f"it is annotated to return {text}"
    return None if own <= taken else f"it is annotated to return {text}"
