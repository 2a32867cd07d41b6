"""The routes of the health endpoint. Each formats the snapshot of the monitor or runs one flow. All are read-only."""

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
from analytics_defs.core.monitoring.health import HealthSnapshot
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
from analytics_defs.web.prometheus import ExpositionFormat, accept_header, accepts_prometheus, render_metrics
from analytics_defs.web.status_page import render_status_page

REQUEST_TIMEOUT_SECONDS = 0.4
"""Maximum wait of a request for running probes whose known results are stale."""
TRACE_TIMEOUT_SECONDS = 15.0
"""Longer than the default of KAFKA_REQUEST_TIMEOUT: a trace also answers `not_read` while Kafka is down."""
MAX_CONCURRENT_TRACES = 2
"""A trace reads whole files. The limit leaves capacity for the health checks."""
MAX_OFFSET, MAX_PARTITION = 2**63 - 1, 2**31 - 1
MAX_TRACE_ID_BYTES = 2048
"""Limit of a DynamoDB key: no event has a longer id."""


@dataclass(frozen=True, slots=True)
class WebContext:
    """Dependencies of the routes."""

    monitor: HealthMonitor
    ports: Ports
    ui_url: str | None = None
    """Address of Dagster's UI, for links to runs."""


def make_app(context: WebContext) -> Starlette:
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
        exception_handlers={HTTPException: _router_error},
    )
    app.router.redirect_slashes = False
    app.state.context = context
    app.state.traces = 0
    return app


async def _snapshot(request: Request) -> HealthSnapshot:
    """Return the current snapshot: at once if the known results are fresh, else after a short wait for new ones."""
    monitor: HealthMonitor = request.app.state.context.monitor
    if attempts := monitor.refresh():
        await asyncio.wait([asyncio.wrap_future(attempt) for attempt in attempts], timeout=REQUEST_TIMEOUT_SECONDS)
    return monitor.snapshot()


async def _health(request: Request) -> Response:
    snapshot = await _snapshot(request)
    return _json(health_json.health_json(snapshot), _http_status(snapshot.status.healthy))


async def _live(request: Request) -> Response:
    """Answer that this process is alive, without starting a probe."""
    snapshot = request.app.state.context.monitor.snapshot()
    return _json({"status": "alive", "service": "analytics", "instance": snapshot.instance, "version": snapshot.version})


async def _ready(request: Request) -> Response:
    snapshot = await _snapshot(request)
    readiness = snapshot.readiness
    body = {
        "status": "ready" if readiness.healthy else "not ready",
        "timestamp": iso_milliseconds(snapshot.taken_at),
        "reasons": list(readiness.reasons),
    }
    return _json(body, _http_status(readiness.healthy))


async def _metrics(request: Request) -> Response:
    accept = request.headers.get("accept", "")
    if "format" in request.query_params:
        try:
            accept = accept_header(ExpositionFormat(request.query_params["format"]))
        except ValueError:
            return _error(HTTPStatus.BAD_REQUEST, f"format: expected one of {', '.join(ExpositionFormat)}")
    snapshot = await _snapshot(request)
    if accepts_prometheus(accept):
        exposition = render_metrics(metric_families(snapshot), accept)
        return Response(exposition.body, headers={"content-type": exposition.content_type, "vary": "Accept"})
    metrics = health_json.metrics_json(snapshot)
    if metrics is None:
        why = snapshot.ledger_statistics.error or "no answer yet"
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, f"the ledger has not been read yet: {why}")
    return _json({"timestamp": iso_milliseconds(snapshot.taken_at)} | metrics)


async def _status_page(request: Request) -> Response:
    return render_status_page(await _snapshot(request), request.app.state.context.ui_url)


async def _trace_source(request: Request) -> Response:
    path = request.path_params
    try:
        source = Source.parse(f"{path['topic']}/{path['partition']}/{path['offset']}")
        valid = _within_kafka_limits(source)
    except ValueError:
        valid = False
    if not valid:
        return _error(HTTPStatus.BAD_REQUEST, "expected /trace/topic/partition/offset, for example /trace/ProductCreated/3/1042")
    return await _traced(request, lambda ports: trace_source(source, ports))


async def _trace_event(request: Request) -> Response:
    """Trace an event by its id.

    An id such as `0/5` is also the path of a record of a topic named `event`. If there is such a topic, the record is traced,
    unless the id is written with `%2F`.
    """
    event_id: str = request.path_params["event_id"]
    if (source := _source_in_topic_event(request, event_id)) is not None:
        return await _traced(request, lambda ports: _trace_source_or_event(source, event_id, ports))
    if not 0 < len(event_id.encode("utf-8", "replace")) <= MAX_TRACE_ID_BYTES:
        return _error(HTTPStatus.NOT_FOUND, f"no event has such an id: expected 1 to {MAX_TRACE_ID_BYTES} bytes")
    return await _traced(request, lambda ports: trace_event(event_id, ports))


def _source_in_topic_event(request: Request, event_id: str) -> Source | None:
    try:
        source = Source.parse(f"event/{event_id}")
    except ValueError:
        return None
    return source if _within_kafka_limits(source) and b"%2f" not in request.scope["raw_path"].lower() else None


def _trace_source_or_event(source: Source, event_id: str, ports: Ports) -> Trace:
    trace = trace_source(source, ports)
    return trace_event(event_id, ports) if trace.outcome is RecordOutcome.UNKNOWN_PARTITION else trace


def _within_kafka_limits(source: Source) -> bool:
    return source.offset <= MAX_OFFSET and source.topic_partition.partition <= MAX_PARTITION


async def _traced(request: Request, trace: Callable[[Ports], Trace]) -> Response:
    """Run the trace in a daemon thread and return its answer, or an error if it is late or too many traces are running."""
    state = request.app.state
    if state.traces >= MAX_CONCURRENT_TRACES:
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CONCURRENT_TRACES} traces are running: try again in a moment")
    state.traces += 1
    attempt = asyncio.wrap_future(run_in_daemon_thread("trace", lambda: trace(state.context.ports)))

    def finish(future: asyncio.Future[Trace]) -> None:
        state.traces -= 1
        if not future.cancelled():
            future.exception()  # marks it as retrieved: asyncio would log the error of a trace whose request timed out

    attempt.add_done_callback(finish)
    try:
        return _json(to_json_value(await asyncio.wait_for(asyncio.shield(attempt), TRACE_TIMEOUT_SECONDS)))
    except NotFound as error:
        return _error(HTTPStatus.NOT_FOUND, str(error))
    except TimeoutError:
        return _error(HTTPStatus.GATEWAY_TIMEOUT, f"no answer within {TRACE_TIMEOUT_SECONDS:.0f} s: a store is slow or down, see /health")
    except AnalyticsError as error:
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))


@cache
def _openapi_document() -> bytes:
    return files("analytics_defs.web").joinpath("openapi.json").read_bytes()


async def _openapi(_: Request) -> Response:
    return Response(_openapi_document(), media_type="application/json")


async def _router_error(_: Request, error: Exception) -> Response:
    """Return an unknown path or method as JSON."""
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return _error(status, status.phrase.lower(), headers)


def _http_status(healthy: bool) -> HTTPStatus:
    return HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE


def _error(status: HTTPStatus, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message, "status": int(status)}, status, headers)


def _json(body: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    return JSONResponse(body, status)
