"""TCP ports for services that must be found again at the same place."""

import errno
import random
import socket

from controlplane.local.errors import LocalError

# Below what Linux hands out for outgoing connections (from 32768): nothing takes these while a service restarts.
_RANGE = range(20000, 32000)


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. An empty host means every address."""
    return obstacle(host, port) is None


def obstacle(host: str, port: int) -> str | None:
    """Why no server could listen there now; None: one could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return "it is in use by another program" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return None


def answers(host: str, port: int, *, timeout_s: float = 2.0) -> bool:
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def free_ports(count: int, host: str = "") -> list[int]:
    """``count`` different ports that were free a moment ago."""
    found: list[int] = []
    for port in random.sample(_RANGE, 50 * count):
        if is_free(host, port):
            found.append(port)
            if len(found) == count:
                return found
    raise LocalError(f"found no {count} free TCP ports between {_RANGE.start} and {_RANGE.stop}")
