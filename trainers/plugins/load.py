"""Functions by path alone, for callers that know what they call them with."""

from collections.abc import Callable, Sequence
from typing import Any

from trainers.errors import PluginInvalid
from trainers.plugins.path import resolve
from trainers.plugins.signature import Form, misfit, signature_of


def load_function(path: str, *, parameters: Sequence[str]) -> Callable[..., Any]:
    """The function that ``path`` names, checked to take ``parameters`` by position. Raises :class:`PluginInvalid` that
    says which part is wrong."""
    found = resolve(path)
    if not callable(found):
        raise PluginInvalid(f"plug-in {path!r} is a {type(found).__name__}, not a function")
    signature = signature_of(found)
    if wrong := misfit(signature, Form(tuple(parameters))):
        raise PluginInvalid(
            f"plug-in {path!r} has the signature {signature}, but is called with ({', '.join(parameters)}): {wrong}"
        )
    return found
