from __future__ import annotations

import socket

from analytics_defs.devstack.tcp_ports import LOOPBACK, accepts, free_port, http_status, is_taken


def test_a_free_port_is_in_use_after_a_server_listens_on_it() -> None:
    port = free_port()
    assert not is_taken(port)
    assert not accepts(port)
    with socket.create_server((LOOPBACK, port)):
        assert is_taken(port)
        assert accepts(port)


def test_there_is_no_status_without_a_server() -> None:
    assert http_status(f"http://{LOOPBACK}:{free_port()}/") is None
