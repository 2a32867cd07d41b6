"""A listening socket, and the server on it: binds first, drains when told to stop, closes connections that only sit there."""

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
"""From the connection, or from the last answer, to the end of the next request's headers."""
RESPONSE_TIMEOUT_SECONDS = 30.0
"""Until the client has taken its answer: one that does not read holds no connection for ever."""
DRAIN_TIMEOUT = 8
MAX_HEADER_BYTES = 16 * 1024
MAX_CONNECTIONS = 400
"""Below the usual limit of 1024 open files, with room for the clients of the stores."""
ACCEPT_BACKLOG = 512


@contextmanager
def bind_socket(host: str, port: int) -> Iterator[socket.socket]:
    """The socket, listening. Raises StartupFailed with host and port where it cannot be had. Port 0: any that is free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupFailed(f"HEALTH_HOST={host}: {error.strerror}") from error
    except UnicodeError as error:  # what no name of a host can be
        raise StartupFailed(f"HEALTH_HOST={host}: not the name or address of a host") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind(address)
            listener.listen(ACCEPT_BACKLOG)
        except OSError as error:
            what = f"cannot listen on port {port} of {host}: {error.strerror}"
            raise StartupFailed(f"{what}. HEALTH_PORT names another port, HEALTH_HOST another address.") from error
        yield listener


class _Connection(H11Protocol):
    """Uvicorn gives up on a connection that is silent after an answer; this one also on those that never finish a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit = self.loop.call_later(REQUEST_READ_TIMEOUT_SECONDS, self._give_up)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._limit.cancel()
            self._limit = self.loop.call_later(RESPONSE_TIMEOUT_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        self._limit.cancel()
        self._limit = self.loop.call_later(REQUEST_READ_TIMEOUT_SECONDS, self._give_up)
        super().on_response_complete()

    def _give_up(self) -> None:
        if self.is_idle():
            self.transport.close()

    def is_idle(self) -> bool:
        current: RequestResponseCycle | None = self.cycle  # uvicorn's own type does not say that there may be none yet
        return current is None or current.response_complete

    def gives_up_at(self) -> float:
        return self._limit.when()

    def _make_room(self) -> None:
        """The ones that sit there longest go: a crowd of idle connections must not keep a poll out."""
        there = [each for each in self.connections if isinstance(each, _Connection)]
        idle = sorted((each for each in there if each is not self and each.is_idle()), key=_Connection.gives_up_at)
        for each in idle[: max(0, len(there) - MAX_CONNECTIONS)]:
            each.transport.abort()


class ObservabilityServer(uvicorn.Server):
    """TERM and INT end it with what is under way answered; unlike uvicorn's own, the process then ends with 0."""

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
                timeout_graceful_shutdown=DRAIN_TIMEOUT,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            )
        )
        # Each malformed request and each upgrade that nobody offers would be a line of the log, at a stranger's will.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._stop_at) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """From any thread. Twice is once."""
        self.should_exit = True

    def _stop_at(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()

    def serve_on(self, listener: socket.socket) -> None:
        """Returns once it was told to stop and has drained."""
        asyncio.run(self.serve([listener]))


def format_address(listener: socket.socket) -> str:
    """As a URL has it."""
    found: Any = listener.getsockname()
    host, port = found[0], found[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
