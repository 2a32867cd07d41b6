"""Around every request: headers that all answers carry, and one plain answer for whatever goes wrong inside."""

from __future__ import annotations

import logging

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)


class ErrorMiddleware:
    """Starlette's own last resort answers too, and then raises again: the server would log a stack trace with what was in it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", "no-store")
                headers.setdefault("x-content-type-options", "nosniff")
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception as error:  # noqa: BLE001 - the last resort
            _log.error(
                "%s %s failed with %s", scope["method"], scope["route"].path if "route" in scope else "(no route)", type(error).__name__
            )
            if not started:
                await JSONResponse({"error": "internal error", "status": 500}, 500)(scope, receive, send_on)
