"""Ports of this machine."""

import socket


def free_port(host: str) -> int:
    """A TCP port on ``host`` that was free a moment ago; whoever binds it must be ready to lose a race."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def http_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
