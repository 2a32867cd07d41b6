"""The health endpoint on a real socket, over memory doubles."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from analytics_defs.adapters.runtime.system import SystemClock
from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.monitoring.backlog import TopicRetention
from analytics_defs.core.monitoring.health import SchedulerStatus
from analytics_defs.flows.health_probes import HealthClients, SchedulerProbe
from analytics_defs.ports import Ports
from analytics_defs.web.app import WebContext, make_app
from analytics_defs.web.monitor import HealthMonitor, MonitorSettings
from analytics_defs.web.server import HealthServer, bind_socket
from tests.devstack.waiting import until
from tests.proof.world import TOPIC, World


class FixedRetention:
    """Implements `TopicRetentionSource` with given settings."""

    def __init__(self, **topics: TopicRetention) -> None:
        self.topics = topics

    def retention(self, topics: Any) -> Mapping[str, TopicRetention]:
        return {topic: retention for topic, retention in self.topics.items() if topic in topics}


class FixedScheduler:
    """Implements `SchedulerProbe` with a status or an error that a test sets."""

    def __init__(self, status: SchedulerStatus | None) -> None:
        self.status = status
        self.error: Exception | None = None

    def scheduler_status(self) -> SchedulerStatus | None:
        if self.error:
            raise self.error
        return self.status


def health_clients(ports: Ports, scheduler: SchedulerProbe | None = None) -> HealthClients:
    retention = FixedRetention(**{TOPIC: TopicRetention(timedelta(days=7))})
    return HealthClients((TOPIC,), ports, ports.event_log, retention, scheduler)


def site(
    ports: Ports, stall_timeout: timedelta = timedelta(minutes=5), scheduling: SchedulerProbe | None = None, instance: str = "test"
) -> WebContext:
    settings = MonitorSettings(PlanningPolicy(), stall_timeout, "1.2.3", instance)
    return WebContext(HealthMonitor(health_clients(ports, scheduling), settings), ports, "http://dagster.test")


class Client:
    """An HTTP client with one connection per request."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port, self.host = port, host

    def get(self, path: str, method: str = "GET", **headers: str) -> Response:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Response(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        body: dict[str, Any] = self.get("/health").json
        return body


class Response:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", self.headers
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@contextmanager
def served(context: WebContext, host: str = "127.0.0.1") -> Iterator[Client]:
    """Serve on a free port in a thread. At the end of the block, drain and stop."""
    with bind_socket(host, 0) as listener:
        server = HealthServer(make_app(context))
        thread = threading.Thread(target=server.serve_on, args=(listener,))
        thread.start()
        try:
            until(lambda: server.started)
            yield Client(listener.getsockname()[1], host)
        finally:
            server.stop()
            thread.join(20)
    assert not thread.is_alive()


class OffsetClock(SystemClock):
    """A running clock that starts at a given time, so that no test depends on the time of day."""

    def __init__(self, start: datetime) -> None:
        self._offset = start - super().now()

    def now(self) -> datetime:
        return super().now() + self._offset


def real_time(world: World) -> Ports:
    """Return the world's ports with a running clock."""
    return replace(world.ports, clock=OffsetClock(world.clock.now()))
