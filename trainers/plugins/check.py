"""Whether a plug-in fits its door, and in which form it is written; if not, what exactly is wrong and how to fix it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainers.errors import PluginInvalid
from trainers.plugins.doors import DOORS, Door
from trainers.plugins.path import resolve
from trainers.plugins.signature import (
    Form,
    is_async,
    misfit,
    names_of,
    out_of_order,
    signature_of,
    wants_args,
    wrong_return,
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A plug-in that fits its door."""

    door: Door
    path: str
    target: Any
    """The user's function or class."""
    form: Literal["native", "slime"]

    @property
    def called_as(self) -> Form:
        form = self.door.native if self.form == "native" else self.door.slime
        assert form is not None
        return form


def check(path: str, door: Door, *, field: str | None = None) -> Checked:
    """Load ``path`` and hold it against ``door``. Raises :class:`PluginInvalid`, naming the field (``door.field``
    unless given)."""
    from trainers.slime_compat.modules import offer_slime

    offer_slime()  # a module written for slime imports slime's
    try:
        return fit(path, resolve(path), door)
    except PluginInvalid as error:
        raise PluginInvalid(f"{field or door.field}: {error}") from error


def fits(path: str) -> list[Checked]:
    """The doors that ``path`` fits, as far as the names of its parameters tell them apart. Raises
    :class:`PluginInvalid` when it cannot be loaded, and when those names are another door's, which it does not fit."""
    from trainers.slime_compat.modules import offer_slime

    offer_slime()
    target = resolve(path)
    if not callable(target):
        raise PluginInvalid(f"plug-in {path!r} is of type {type(target).__name__}, neither a function nor a class")
    if inspect.isclass(target):
        return [fit(path, target, door) for door in DOORS.values() if door.native.methods]
    names = [name.lstrip("_") for name in names_of(signature_of(target))]
    found: dict[int, list[Checked]] = {}
    wrong: dict[int, PluginInvalid] = {}
    for door in DOORS.values():
        try:
            checked = fit(path, target, door)
            found.setdefault(_alike(names, checked.called_as), []).append(checked)
        except PluginInvalid as error:
            forms = [form for form in (door.native, door.slime) if form is not None]
            wrong.setdefault(max(_alike(names, form) for form in forms), error)
    nearest = max(wrong, default=0)
    if nearest > max((1, *found)):  # one name alone, such as args, tells nothing
        raise wrong[nearest]
    return found[max(found)] if found else []


def _alike(names: Sequence[str], form: Form) -> int:
    return sum(a == b for a, b in zip(form.parameters, names, strict=False))


def fit(path: str, target: Any, door: Door) -> Checked:
    """Hold what was loaded from ``path`` against ``door``."""
    if door.native.methods:
        return _fit_class(path, target, door)
    if inspect.isclass(target):
        raise PluginInvalid(f"plug-in {path!r} is a class, and {door.name} takes a function{_wanted(door)}")
    if not callable(target):
        raise PluginInvalid(f"plug-in {path!r} is a {type(target).__name__}, not a function{_wanted(door)}")
    form = _form(path, target, door)
    _check_function(path, target, form, door)
    return Checked(door, path, target, "native" if form is door.native else "slime")


def _form(path: str, target: Callable[..., Any], door: Door) -> Form:
    signature = signature_of(target)
    native = misfit(signature, door.native)
    if door.slime is None:
        if native is not None:
            raise PluginInvalid(f"plug-in {path!r} has the signature {signature}: {native}{_wanted(door)}")
        return door.native
    slime = misfit(signature, door.slime)
    for_slime = wants_args(signature)
    first = next(iter(names_of(signature)), "")
    if slime is None and (for_slime or (native is not None and first not in door.native.parameters)):
        return door.slime
    if native is None and not for_slime:
        return door.native
    raise PluginInvalid(
        f"plug-in {path!r} has the signature {signature}: {slime if for_slime else native}{_wanted(door)}"
    )


def _check_function(path: str, target: Callable[..., Any], form: Form, door: Door) -> None:
    signature = signature_of(target)
    if wrong := out_of_order(signature, form):
        raise PluginInvalid(f"plug-in {path!r} has the signature {signature}: {wrong}{_wanted(door)}")
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise PluginInvalid(f"plug-in {path!r} yields, and {door.name} takes what a function returns: use `return`")
    if form.is_async is True and not is_async(target):
        raise PluginInvalid(f"plug-in {path!r} is not async: write it as `async def`{_wanted(door)}")
    if form.is_async is False and is_async(target):
        raise PluginInvalid(f"plug-in {path!r} is async, and {door.name} is not waited for: write it as `def`")
    if wrong := wrong_return(signature, form):
        raise PluginInvalid(f"plug-in {path!r} returns the wrong thing: {wrong}, and {door.name} takes {form.shown}")


def _fit_class(path: str, target: Any, door: Door) -> Checked:
    if not inspect.isclass(target):
        raise PluginInvalid(f"plug-in {path!r} is a {type(target).__name__}, not a class{_wanted(door)}")
    form = door.native
    if door.slime is not None and not hasattr(target, "next_groups") and hasattr(target, "get_samples"):
        form = door.slime
    if reason := misfit(signature_of(target), form):
        raise PluginInvalid(f"plug-in {path!r}: {target.__name__}{signature_of(target)}: {reason}{_wanted(door)}")
    for name, parameters in form.methods:
        method = getattr(target, name, None)
        if not callable(method):
            raise PluginInvalid(f"plug-in {path!r}: {target.__name__} has no method {name}{_wanted(door)}")
        if is_async(method):
            raise PluginInvalid(f"plug-in {path!r}: {target.__name__}.{name} is async: write it as `def`")
        if reason := misfit(signature_of(method), Form(("self", *parameters))):
            raise PluginInvalid(
                f"plug-in {path!r}: {target.__name__}.{name}{signature_of(method)}: {reason}{_wanted(door)}"
            )
    return Checked(door, path, target, "native" if form is door.native else "slime")


def _wanted(door: Door) -> str:
    slime = f", or in slime's form {door.slime}" if door.slime is not None else ""
    return f". {door.name} takes {door.native}{slime}"
