"""The always-on job over memory doubles, and any app of ours on a real socket."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from analytics_defs.adapters.runtime.system import SystemClock
from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.monitoring.backlog import TopicRetention
from analytics_defs.core.monitoring.health import SchedulerStatus
from analytics_defs.flows.health_checks import HealthClients
from analytics_defs.flows.health_checks import SchedulerProbe as AnyScheduling
from analytics_defs.ports import Ports
from analytics_defs.web.app import WebContext, make_app
from analytics_defs.web.monitor import HealthMonitor, MonitorSettings
from analytics_defs.web.server import ObservabilityServer, bind_socket
from tests.devstack.waiting import until
from tests.proof.world import TOPIC, World


class Retention:
    def __init__(self, **topics: TopicRetention) -> None:
        self.topics = topics

    def retention(self, topics: Any) -> Mapping[str, TopicRetention]:
        return {topic: kept for topic, kept in self.topics.items() if topic in topics}


class Scheduling:
    """What Dagster's instance says, as a test sets it."""

    def __init__(self, says: SchedulerStatus | None) -> None:
        self.says = says
        self.fault: Exception | None = None

    def scheduler_status(self) -> SchedulerStatus | None:
        if self.fault:
            raise self.fault
        return self.says


def doors(ports: Ports, scheduling: AnyScheduling | None = None) -> HealthClients:
    return HealthClients((TOPIC,), ports, ports.event_log, Retention(**{TOPIC: TopicRetention(timedelta(days=7))}), scheduling)


def site(
    ports: Ports, stall_timeout: timedelta = timedelta(minutes=5), scheduling: AnyScheduling | None = None, instance: str = "test"
) -> WebContext:
    watch = HealthMonitor(doors(ports, scheduling), MonitorSettings(PlanningPolicy(), stall_timeout, "1.2.3", instance))
    return WebContext(watch, ports, "http://dagster.test")


class Client:
    """One request, one connection."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port, self.host = port, host

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/health").json
        return found


class Answer:
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
def served(site: WebContext, host: str = "127.0.0.1") -> Iterator[Client]:
    """On a free port, in a thread. Ends with the block, drained."""
    with bind_socket(host, 0) as listener:
        server = ObservabilityServer(make_app(site))
        thread = threading.Thread(target=server.serve_on, args=(listener,))
        thread.start()
        try:
            until(lambda: server.started)
            yield Client(listener.getsockname()[1], host)
        finally:
            server.stop()
            thread.join(20)
    assert not thread.is_alive()


class Running(SystemClock):
    """Runs on from a moment of a test's own choice, so that no test depends on the time of the day."""

    def __init__(self, start: datetime) -> None:
        self._ahead = start - super().now()

    def now(self) -> datetime:
        return super().now() + self._ahead


def real_time(world: World) -> Ports:
    """The world's ports under a clock that runs."""
    return Ports(world.event_log, world.recent_events, world.object_store, world.ledger, Running(world.clock.now()), world.ports.task_pool)
