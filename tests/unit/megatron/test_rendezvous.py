"""Where ranks meet: one listening port, shared with the world that rank 0 opens there."""

import socket
from datetime import timedelta
from typing import Any

import pytest
from torch._C._distributed_c10d import TCPStore

from trainers.megatron.rendezvous import meeting_place

PATIENCE = timedelta(seconds=5)


def test_a_place_is_shared_by_its_process_even_where_an_earlier_one_was(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, multi_tenant=True)
    port = earlier.port
    del earlier
    listen = socket.create_server

    def at_the_same_port(_: tuple[str, int], **options: Any) -> socket.socket:
        return listen(("127.0.0.1", port), **options)

    monkeypatch.setattr(socket, "create_server", at_the_same_port)
    held, init_method = meeting_place("127.0.0.1")
    assert init_method == f"tcp://127.0.0.1:{port}"
    of_the_world = TCPStore("127.0.0.1", port, 1, True, PATIENCE, multi_tenant=True)
    of_a_peer = TCPStore("127.0.0.1", port, 2, False, PATIENCE)
    of_the_world.set("met", "here")
    assert held.get("met") == of_a_peer.get("met") == b"here"


def test_the_port_is_held_as_long_as_the_place() -> None:
    held, init_method = meeting_place("127.0.0.1")
    port = int(init_method.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port))
    del held
    socket.create_server(("127.0.0.1", port)).close()


def _ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_host_stands_in_brackets() -> None:
    held, init_method = meeting_place("::1")
    port = int(init_method.removeprefix("tcp://[::1]:"))
    assert TCPStore("::1", port, 2, False, PATIENCE).port == held.port == port
