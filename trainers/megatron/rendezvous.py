"""Where the ranks of a world meet. Imports torch, and no Megatron."""

import socket

from torch._C._distributed_c10d import TCPStore


def meeting_place(host: str) -> tuple[TCPStore, str]:
    """A store that listens on ``host`` for as long as it is held, and its ``init_method``. For rank 0's process, whose
    own part in the world then shares it: a port that was only found to be free could be gone by then. Raises OSError
    for a host that is not this one."""
    # Bound here because torch, asked for any port, does not share a store at one where this process had a store before.
    listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    port: int = listener.getsockname()[1]
    store = TCPStore(
        host, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
    )
    return store, f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
