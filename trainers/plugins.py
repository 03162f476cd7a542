"""The door that a user's functions come in by."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from trainers.errors import PluginInvalid


def load_function(path: str, *, parameters: Sequence[str]) -> Callable[..., Any]:
    """The function that ``package.module:function`` names, checked to take ``parameters`` by position.

    ``function`` may be dotted (a method of a class). Raises :class:`PluginInvalid` that says which part is wrong.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise PluginInvalid(f"plug-in {path!r} must have the form package.module:function")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise PluginInvalid(
                f"plug-in {path!r}: there is no module {error.name!r}: add its directory to runtime.python_path"
            ) from error
        raise PluginInvalid(f"plug-in {path!r}: importing {module_name} failed: {error}") from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise PluginInvalid(f"plug-in {path!r}: importing {module_name} raised {error!r}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise PluginInvalid(f"plug-in {path!r}: {module_name} has no {name!r}") from None
    if not callable(found):
        raise PluginInvalid(f"plug-in {path!r} is a {type(found).__name__}, not a function")
    _check_signature(path, found, parameters)
    return found


def _check_signature(path: str, function: Callable[..., Any], parameters: Sequence[str]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C do not know theirs
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        raise PluginInvalid(
            f"plug-in {path!r} has the signature {signature}, but is called with ({', '.join(parameters)}): {error}"
        ) from None
