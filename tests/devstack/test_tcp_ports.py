from __future__ import annotations

import socket

from analytics_defs.devstack.tcp_ports import LOOPBACK, accepts, free_port, http_status, is_taken


def test_a_free_port_can_be_listened_on_and_is_then_taken() -> None:
    port = free_port()
    assert not is_taken(port)
    assert not accepts(port)
    with socket.create_server((LOOPBACK, port)):
        assert is_taken(port)
        assert accepts(port)


def test_where_nobody_answers_there_is_no_status() -> None:
    assert http_status(f"http://{LOOPBACK}:{free_port()}/") is None
