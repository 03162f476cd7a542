"""Names of hosts."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether ``host`` is each machine's name for itself: ``localhost``, ``127.0.0.0/8`` or ``::1``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
