"""The resource through which Dagster reaches the flows' ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from analytics_defs.config import Settings, load_settings
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.tail_lane import TailOptions
from analytics_defs.flows.setup.platform_identity import verify_stores
from analytics_defs.ports import Ports

if TYPE_CHECKING:
    from analytics_defs.flows.health_checks import SchedulerProbe
    from analytics_defs.web.app import WebContext


class Platform:
    """The environment's settings and the ports built from them. Nothing is read or connected before it is used."""

    def settings(self) -> Settings:
        """Raises SettingsError with every wrong setting."""
        return load_settings()

    def now(self) -> datetime:
        """Without ports: what asks for nothing but the time needs no store."""
        return datetime.now(UTC)

    def ports(self) -> Ports:
        """Cached in the process: Dagster sets resources up on every tick, and clients are costly to make."""
        from analytics_defs.wiring import build_ports

        return build_ports(self.settings())

    def verified_ports(self) -> Ports:
        """The same, for whoever writes without a plan. Raises InconsistentState where these stores do not belong together."""
        ports = self.ports()
        verify_stores(ports)
        return ports

    def workspace_factory(self) -> StatisticsEngineFactory:
        from analytics_defs.wiring import workspace_factory

        return workspace_factory(self.settings())

    @contextmanager
    def lease_heartbeat(self, run_id: str, lane: int) -> Iterator[Ports]:
        """The ports, while the run's lease is renewed beside the work."""
        from analytics_defs.adapters.runtime.lease_heartbeat import LeaseHeartbeat

        ports = self.ports()
        with LeaseHeartbeat(ports.ledger, run_id, lane, ports.clock):
            yield ports

    def ingest_options(self, run_id: str) -> IngestOptions:
        from analytics_defs.wiring import ingest_options

        return ingest_options(self.settings(), run_id)

    def tail_options(self, lanes: int) -> TailOptions:
        """A lane of so many lanes, whatever LANES says in this process: elsewhere it is a part of several others. 0: as LANES says."""
        from analytics_defs.wiring import tail_options

        return tail_options(_with(lanes, self.settings()))

    def web_context(self, run_id: str, scheduling: SchedulerProbe) -> WebContext:
        """What the always-on job shows, over clients of its own."""
        from analytics_defs.wiring import web_context

        return web_context(self.settings(), run_id, scheduling)


def _with(lanes: int, settings: Settings) -> Settings:
    return settings.model_copy(update={"lanes": lanes}) if lanes else settings


@contextmanager
def as_dagster_failures() -> Iterator[None]:
    """Our errors as Dagster's: the message alone, and whether trying again may help."""
    try:
        yield
    except AnalyticsError as error:
        raise dg.Failure(description=str(error), metadata={"error": type(error).__name__}, allow_retries=error.retryable) from error
