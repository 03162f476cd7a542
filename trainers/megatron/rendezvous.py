"""Where the ranks of a world meet. Imports torch, and no Megatron."""

from torch._C._distributed_c10d import TCPStore


def meeting_place(host: str) -> tuple[TCPStore, str]:
    """A store that listens on ``host`` for as long as it is held, and its ``init_method``. For rank 0's process, whose
    own part in the world then shares it: a port that was only found to be free could be gone by then."""
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, multi_tenant=True)
    return store, f"tcp://{f'[{host}]' if ':' in host else host}:{store.port}"
