"""A loss or an advantage of the user's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from trainers.errors import PluginInvalid, RunError
from trainers.megatron.failure import memory_errors


def of_each_token(
    field: str, path: str | None, function: Callable[..., Any], inputs: object, algorithm: object, *, like: Tensor
) -> Tensor:
    """What ``function``, which ``field`` names as ``path``, makes of every token: of the shape of ``like``.

    Raises PluginInvalid for what it raises or returns beside that."""
    with calling(field, path):
        found = function(inputs, algorithm)
    if not isinstance(found, Tensor) or found.shape != like.shape:
        said = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise PluginInvalid(
            f"{field}: {path} must return one value per token, shape {tuple(like.shape)}, and returned {said}"
        )
    return found


@contextmanager
def calling(field: str, path: str | None) -> Iterator[None]:
    """What the user's code raises comes out as PluginInvalid, which no further attempt would mend."""
    try:
        with memory_errors(f"{field}: {path}"):
            yield
    except RunError:
        raise
    except Exception as error:  # it may raise anything
        raise PluginInvalid(f"{field}: {path} raised {error!r}") from error
