"""From the path of a plug-in to what it names."""

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from trainers.errors import PluginInvalid


def resolve(path: str) -> Any:
    """What ``package.module:function`` or ``package.module.function`` names; ``function`` may be dotted (a method of a
    class). Raises :class:`PluginInvalid` that says which part is wrong and what to do."""
    module_name, colon, name = path.partition(":")
    if not colon:
        module_name, name = _split(path)
    if not all(part.isidentifier() for dotted in (module_name, name) for part in dotted.split(".")):
        raise PluginInvalid(f"plug-in {path!r} must have the form package.module:function, or package.module.function")
    found: Any = _imported(path, module_name)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise PluginInvalid(f"plug-in {path!r}: {module_name} has no {name!r}{_nearest(found, part)}") from None
    return found


def _split(path: str) -> tuple[str, str]:
    """Module and name of a dotted path: the longest beginning that is a module; where none is, all but the last."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        try:
            if importlib.util.find_spec(module) is not None:
                return module, ".".join(parts[end:])
        except (ImportError, AttributeError, ValueError):
            continue  # a part before its last is no package
        except Exception as error:  # finding a.b imports a, which is the user's
            raise PluginInvalid(f"plug-in {path!r}: importing {module} raised {error!r}") from error
    return ".".join(parts[:-1]), parts[-1]


def _imported(path: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise PluginInvalid(
                f"plug-in {path!r}: there is no module {error.name!r}: add its directory to runtime.python_path"
            ) from error
        raise PluginInvalid(f"plug-in {path!r}: importing {module_name} failed: {error}") from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise PluginInvalid(f"plug-in {path!r}: importing {module_name} raised {error!r}") from error


def _nearest(found: Any, part: str) -> str:
    import difflib

    near = difflib.get_close_matches(part, [name for name in dir(found) if not name.startswith("__")], n=1)
    return f": did you mean {near[0]!r}?" if near else ""
