"""ASGI middleware: headers of all responses, and a plain response for unexpected errors."""

from __future__ import annotations

import logging

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)


class ErrorMiddleware:
    """Middleware that answers unexpected errors with 500 and logs only their type.

    Starlette's own handler raises the error again. The server would then log a stack trace, which may hold payload.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", "no-store")
                headers.setdefault("x-content-type-options", "nosniff")
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001 - no error may reach the server, see above
            _log.error(
                "%s %s failed with %s", scope["method"], scope["route"].path if "route" in scope else "(no route)", type(error).__name__
            )
            if not started:
                await JSONResponse({"error": "internal error", "status": 500}, 500)(scope, receive, send_with_headers)
