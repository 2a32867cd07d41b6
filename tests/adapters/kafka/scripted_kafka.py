"""Misbehaving brokers: the part of Kafka's protocol that is needed to refuse a client, or to never answer it."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

METADATA, SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 3, 17, 18, 36
SASL_AUTHENTICATION_FAILED = 58


@contextmanager
def broker_that_refuses_credentials() -> Iterator[str]:
    """Yield the address of a broker that speaks SASL/PLAIN and refuses every password."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Refusing)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def broker_that_never_answers() -> Iterator[str]:
    """Yield the address of a broker that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def broker_that_is_down() -> Iterator[str]:
    """Yield an address without a listener. The port stays reserved."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


class _Refusing(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while header := self.rfile.read(4):
            request = self.rfile.read(struct.unpack(">i", header)[0])
            api, _, correlation = struct.unpack(">hhi", request[:8])
            response = struct.pack(">i", correlation) + _RESPONSES[api]
            self.wfile.write(struct.pack(">i", len(response)) + response)


def _supported(api: int, newest: int) -> bytes:
    return struct.pack(">hhhB", api, 0, newest, 0)


_RESPONSES = {
    API_VERSIONS: struct.pack(">hB", 0, 5)
    + _supported(METADATA, 4)
    + _supported(SASL_HANDSHAKE, 1)
    + _supported(API_VERSIONS, 3)
    + _supported(SASL_AUTHENTICATE, 0)
    + struct.pack(">iB", 0, 0),
    SASL_HANDSHAKE: struct.pack(">hih", 0, 1, 5) + b"PLAIN",
    SASL_AUTHENTICATE: struct.pack(">hh", SASL_AUTHENTICATION_FAILED, 6) + b"denied" + struct.pack(">i", 0),
}
