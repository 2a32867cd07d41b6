"""Loopback ports: free ones to listen on, and waiting until somebody answers."""

from __future__ import annotations

import random
import socket
import urllib.error
import urllib.request

LOOPBACK = "127.0.0.1"
_LISTENING = range(15_000, 32_000)
"""Below the ports that Linux, macOS and Windows hand to outgoing connections: a client that calls a stopped server again
and again would otherwise, sooner or later, be given the server's own port and connect to itself."""


def free_port() -> int:
    """A port that nothing listens on at this moment. Chosen at random, so that two callers rarely get the same one."""
    while True:
        port = random.choice(_LISTENING)
        if not is_taken(port):
            return port


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
        return False


def accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def http_status(url: str) -> int | None:
    """The status of a GET, or None where nobody answered."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - only ever http, from this package
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None
