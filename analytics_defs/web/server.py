"""The listening socket and the HTTP server. The server drains on stop, and limits slow, idle and excess connections.

Uvicorn's own limits are not enough: `timeout_keep_alive` starts after the first response, and `limit_concurrency` answers
503 to health checks while idle connections fill it. The endpoint has to answer when everything else fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from analytics_defs.errors import StartupFailed

REQUEST_READ_TIMEOUT_SECONDS = 5.0
"""From the connection, or from the last response, to the end of the next request's headers."""
RESPONSE_TIMEOUT_SECONDS = 30.0
"""From the request to the end of its response. A client that does not read its response is disconnected."""
DRAIN_TIMEOUT_SECONDS = 8
MAX_HEADER_BYTES = 16 * 1024
MAX_CONNECTIONS = 400
"""Below the usual limit of 1024 open files, with room for the clients of the stores."""
ACCEPT_BACKLOG = 512


@contextmanager
def bind_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a listening socket. Raise StartupFailed with host and port if that is not possible. Port 0: any free port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupFailed(f"HEALTH_HOST={host}: {error.strerror}") from error
    except UnicodeError as error:  # not a valid host name
        raise StartupFailed(f"HEALTH_HOST={host}: not a host name or an address") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind(address)
            listener.listen(ACCEPT_BACKLOG)
        except OSError as error:
            message = f"cannot listen on port {port} of {host}: {error.strerror}"
            raise StartupFailed(f"{message}. HEALTH_PORT names another port, HEALTH_HOST another address.") from error
        yield listener


class _Connection(H11Protocol):
    """A connection with a timeout in every state. Uvicorn alone closes only connections that are idle after a response."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timeout = self.loop.call_later(REQUEST_READ_TIMEOUT_SECONDS, self._close_if_idle)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timeout.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        previous = self.cycle
        super().handle_events()
        if self.cycle is not previous:
            self._timeout.cancel()
            self._timeout = self.loop.call_later(RESPONSE_TIMEOUT_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        self._timeout.cancel()
        self._timeout = self.loop.call_later(REQUEST_READ_TIMEOUT_SECONDS, self._close_if_idle)
        super().on_response_complete()

    def _close_if_idle(self) -> None:
        if self.is_idle():
            self.transport.close()

    def is_idle(self) -> bool:
        current: RequestResponseCycle | None = self.cycle  # uvicorn's annotation omits None
        return current is None or current.response_complete

    def expires_at(self) -> float:
        return self._timeout.when()

    def _make_room(self) -> None:
        """Close the connections that have been idle longest, so that idle clients cannot block health checks."""
        connections = [connection for connection in self.connections if isinstance(connection, _Connection)]
        idle = [connection for connection in connections if connection is not self and connection.is_idle()]
        idle.sort(key=_Connection.expires_at)
        for connection in idle[: max(0, len(connections) - MAX_CONNECTIONS)]:
            connection.transport.abort()


class HealthServer(uvicorn.Server):
    """The HTTP server. On TERM and INT it finishes running requests, and the process exits with 0, unlike with uvicorn."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Connection,
                ws="none",
                lifespan="off",
                access_log=False,
                server_header=False,
                log_config=None,
                timeout_keep_alive=int(REQUEST_READ_TIMEOUT_SECONDS),
                timeout_graceful_shutdown=DRAIN_TIMEOUT_SECONDS,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            )
        )
        # Uvicorn logs each malformed request and each unsupported upgrade. Clients could fill the log with them.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Request the end of `serve_on`. Thread-safe and idempotent."""
        self.should_exit = True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()

    def serve_on(self, listener: socket.socket) -> None:
        """Serve until `stop` is called or a signal arrives, then drain and return."""
        asyncio.run(self.serve([listener]))


def format_address(listener: socket.socket) -> str:
    """Return the address as a URL."""
    address: Any = listener.getsockname()
    host, port = address[0], address[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
