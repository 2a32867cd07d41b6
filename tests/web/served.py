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
from analytics_defs.core.ingest.planning import Policy
from analytics_defs.core.monitoring.backlog import Kept
from analytics_defs.core.monitoring.health import Scheduler
from analytics_defs.flows.health_checks import Doors
from analytics_defs.flows.health_checks import Scheduling as AnyScheduling
from analytics_defs.ports import Ports
from analytics_defs.web.app import Site, make_app
from analytics_defs.web.monitor import Identity, Watch
from analytics_defs.web.server import Server, bound
from tests.devstack.waiting import until
from tests.proof.world import TOPIC, World


class Retention:
    def __init__(self, **topics: Kept) -> None:
        self.topics = topics

    def retention(self, topics: Any) -> Mapping[str, Kept]:
        return {topic: kept for topic, kept in self.topics.items() if topic in topics}


class Scheduling:
    """What Dagster's instance says, as a test sets it."""

    def __init__(self, says: Scheduler | None) -> None:
        self.says = says
        self.fault: Exception | None = None

    def look(self) -> Scheduler | None:
        if self.fault:
            raise self.fault
        return self.says


def doors(ports: Ports, scheduling: AnyScheduling | None = None) -> Doors:
    return Doors((TOPIC,), ports, ports.log, Retention(**{TOPIC: Kept(timedelta(days=7))}), scheduling)


def site(
    ports: Ports, stall_after: timedelta = timedelta(minutes=5), scheduling: AnyScheduling | None = None, instance: str = "test"
) -> Site:
    watch = Watch(doors(ports, scheduling), Identity(Policy(), stall_after, "1.2.3", instance))
    return Site(watch, ports, "http://dagster.test")


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
def served(site: Site, host: str = "127.0.0.1") -> Iterator[Client]:
    """On a free port, in a thread. Ends with the block, drained."""
    with bound(host, 0) as listener:
        server = Server(make_app(site))
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
    return Ports(world.log, world.recent, world.archive, world.ledger, Running(world.clock.now()), world.ports.workers)
