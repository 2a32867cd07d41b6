"""Loopback ports: free ports to listen on, and probes of ports in use."""

from __future__ import annotations

import random
import socket
import urllib.error
import urllib.request

LOOPBACK = "127.0.0.1"
_LISTENING = range(15_000, 32_000)
"""Below the ephemeral ports of Linux, macOS and Windows. Otherwise a client that reconnects to a stopped server could
get the server's port as its own and connect to itself."""


def free_port() -> int:
    """Return a port that is currently free. It is random, so that two callers rarely get the same one."""
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
    """Return the status code of a GET request, or None without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - all callers use http URLs
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None
