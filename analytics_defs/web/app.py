"""The routes. Every answer is made from the watch's picture, or by one flow; nothing here writes anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from analytics_defs.core.json_values import to_json_value
from analytics_defs.core.monitoring.health import HealthSnapshot, evaluate_health, readiness
from analytics_defs.core.offsets import Source
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import AnalyticsError, NotFound
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.flows.trace.trace import trace_event, trace_source
from analytics_defs.ports import Ports
from analytics_defs.web import health_json
from analytics_defs.web.daemon_threads import run_in_daemon_thread
from analytics_defs.web.error_middleware import ErrorMiddleware
from analytics_defs.web.metric_families import metric_families
from analytics_defs.web.monitor import HealthMonitor
from analytics_defs.web.prometheus import ExpositionFormat, negotiate_format, render_metrics
from analytics_defs.web.status_page import render_status_page

REQUEST_TIMEOUT_SECONDS = 0.4
"""How long an answer waits for checks under way, where the newest finished ones are too old."""
TRACE_TIMEOUT_SECONDS = 15.0
"""Above KAFKA_REQUEST_TIMEOUT's default: what was not read yet is answered where Kafka is down, too."""
MAX_CONCURRENT_TRACES = 2
"""A trace reads whole files: a handful at a time, so that they never crowd out the health checks."""
MAX_OFFSET, MAX_PARTITION = 2**63 - 1, 2**31 - 1
MAX_TRACE_ID_BYTES = 2048
"""Of a DynamoDB key: no event has a longer id."""


@dataclass(frozen=True, slots=True)
class WebContext:
    """What the routes look at."""

    monitor: HealthMonitor
    ports: Ports
    ui_url: str | None = None
    """Where Dagster's UI is, for links to runs."""


def make_app(site: WebContext) -> Starlette:
    app = Starlette(
        routes=[
            Route("/", _status_page, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
            Route("/health/live", _live, methods=["GET"]),
            Route("/health/ready", _ready, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
            Route("/trace/event/{event_id:path}", _trace_event, methods=["GET"]),
            Route("/trace/{topic}/{partition}/{offset}", _trace_source, methods=["GET"]),
            Route("/openapi.json", _openapi, methods=["GET"]),
        ],
        middleware=[Middleware(ErrorMiddleware)],
        exception_handlers={HTTPException: _refused},
    )
    app.router.redirect_slashes = False
    app.state.context = site
    app.state.traces = 0
    return app


async def _look(request: Request) -> HealthSnapshot:
    """The picture of now: at once where the last checks are fresh, after a short wait where they are not."""
    watch: HealthMonitor = request.app.state.context.monitor
    if due := watch.refresh():
        await asyncio.wait([asyncio.wrap_future(each) for each in due], timeout=REQUEST_TIMEOUT_SECONDS)
    return watch.snapshot()


async def _health(request: Request) -> Response:
    picture = await _look(request)
    return _json(health_json.health_json(picture), _status(evaluate_health(picture).healthy))


async def _live(request: Request) -> Response:
    """That this process answers. Asks nothing of anybody."""
    picture = request.app.state.context.monitor.snapshot()
    return _json({"status": "alive", "service": "analytics", "instance": picture.instance, "version": picture.version})


async def _ready(request: Request) -> Response:
    picture = await _look(request)
    found = readiness(picture)
    body = {
        "status": "ready" if found.healthy else "not ready",
        "timestamp": iso_milliseconds(picture.taken_at),
        "reasons": list(found.reasons),
    }
    return _json(body, _status(found.healthy))


async def _metrics(request: Request) -> Response:
    accept = request.headers.get("accept", "")
    try:
        wanted = ExpositionFormat(request.query_params["format"]) if "format" in request.query_params else negotiate_format(accept)
    except ValueError:
        return _fault(HTTPStatus.BAD_REQUEST, f"format: expected one of {', '.join(ExpositionFormat)}")
    picture = await _look(request)
    if wanted is ExpositionFormat.JSON:
        found = health_json.metrics_json(picture)
        if found is None:
            return _fault(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the ledger was not read yet: {picture.ledger_statistics.error or 'no answer yet'}"
            )
        return _json({"timestamp": iso_milliseconds(picture.taken_at)} | found)
    shown = render_metrics(metric_families(picture), accept, wanted)
    return Response(shown.body, headers={"content-type": shown.content_type, "vary": "Accept"})


async def _status_page(request: Request) -> Response:
    return render_status_page(await _look(request), request.app.state.context.ui_url)


async def _trace_source(request: Request) -> Response:
    given = request.path_params
    try:
        source = Source.parse(f"{given['topic']}/{given['partition']}/{given['offset']}")
        fits = _fits(source)
    except ValueError:
        fits = False
    if not fits:
        return _fault(HTTPStatus.BAD_REQUEST, "expected /trace/topic/partition/offset, for example /trace/ProductCreated/3/1042")
    return await _traced(request, lambda ports: trace_source(source, ports))


async def _trace_event(request: Request) -> Response:
    """What looks like a record of a topic that is called `event` is one where there is such a topic; an id with `%2F` in it never is."""
    event_id: str = request.path_params["event_id"]
    if (source := _of_topic_event(request, event_id)) is not None:
        return await _traced(request, lambda ports: _source_or_event(source, event_id, ports))
    if not 0 < len(event_id.encode("utf-8", "replace")) <= MAX_TRACE_ID_BYTES:
        return _fault(HTTPStatus.NOT_FOUND, f"no event has such an id: expected 1 to {MAX_TRACE_ID_BYTES} bytes")
    return await _traced(request, lambda ports: trace_event(event_id, ports))


def _of_topic_event(request: Request, event_id: str) -> Source | None:
    try:
        source = Source.parse(f"event/{event_id}")
    except ValueError:
        return None
    return source if _fits(source) and b"%2f" not in request.scope["raw_path"].lower() else None


def _source_or_event(source: Source, event_id: str, ports: Ports) -> Trace:
    told = trace_source(source, ports)
    return trace_event(event_id, ports) if told.outcome is RecordOutcome.UNKNOWN_PARTITION else told


def _fits(source: Source) -> bool:
    """Kafka has no larger numbers."""
    return source.offset <= MAX_OFFSET and source.topic_partition.partition <= MAX_PARTITION


async def _traced(request: Request, follow: Callable[[Ports], Trace]) -> Response:
    state = request.app.state
    if state.traces >= MAX_CONCURRENT_TRACES:
        return _fault(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CONCURRENT_TRACES} traces are under way: try again in a moment")
    state.traces += 1
    attempt = asyncio.wrap_future(run_in_daemon_thread("trace", lambda: follow(state.context.ports)))

    def ended(done: asyncio.Future[Trace]) -> None:
        state.traces -= 1
        if not done.cancelled():
            done.exception()  # looked at, so that asyncio does not log one that nobody waits for any more

    attempt.add_done_callback(ended)
    try:
        return _json(to_json_value(await asyncio.wait_for(asyncio.shield(attempt), TRACE_TIMEOUT_SECONDS)))
    except NotFound as fault:
        return _fault(HTTPStatus.NOT_FOUND, str(fault))
    except TimeoutError:
        return _fault(HTTPStatus.GATEWAY_TIMEOUT, f"no answer within {TRACE_TIMEOUT_SECONDS:.0f} s: a store is slow or down, see /health")
    except AnalyticsError as fault:
        return _fault(HTTPStatus.SERVICE_UNAVAILABLE, str(fault))


@cache
def _document() -> bytes:
    return files("analytics_defs.web").joinpath("openapi.json").read_bytes()


async def _openapi(_: Request) -> Response:
    return Response(_document(), media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    """What the router raises: no such path, no such method."""
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return _fault(status, status.phrase.lower(), headers)


def _status(well: bool) -> HTTPStatus:
    return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE


def _fault(status: HTTPStatus, what: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": what, "status": int(status)}, status, headers)


def _json(body: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    return JSONResponse(body, status)
