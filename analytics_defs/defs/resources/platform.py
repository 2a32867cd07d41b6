"""The resource through which Dagster reaches the ports of the flows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from analytics_defs.config import Settings, load_settings
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.tail_lane import TailOptions
from analytics_defs.flows.setup.platform_identity import verify_stores
from analytics_defs.ports import Ports

if TYPE_CHECKING:
    from analytics_defs.flows.health_probes import SchedulerProbe
    from analytics_defs.web.app import WebContext


class Platform:
    """The settings of the environment, and the ports built from them. Nothing is read or connected before its first use.

    A plain class on purpose. Its configuration is the environment, so a `dg.ConfigurableResource` would have no fields. Dagster would
    copy it on every tick and run, and loading the definitions would take 0.1 s longer (measured).
    """

    def settings(self) -> Settings:
        """Read the settings. Raise SettingsError with every wrong setting."""
        return load_settings()

    def now(self) -> datetime:
        """Return the time without building ports, for callers that need no store."""
        return datetime.now(UTC)

    def ports(self) -> Ports:
        """Return the ports, cached in the process. Dagster sets resources up on every tick, and clients are costly to create."""
        from analytics_defs.wiring import build_ports

        return build_ports(self.settings())

    def verified_ports(self) -> Ports:
        """Return the ports for callers that write without a plan. Raise InconsistentState if these stores do not belong together."""
        ports = self.ports()
        verify_stores(ports)
        return ports

    def statistics_engine_factory(self) -> StatisticsEngineFactory:
        from analytics_defs.wiring import statistics_engine_factory

        return statistics_engine_factory(self.settings())

    @contextmanager
    def lease_heartbeat(self, run_id: str, lane: int | None) -> Iterator[Ports]:
        """Yield the ports and renew the lease of the run in the background."""
        from analytics_defs.adapters.runtime.lease_heartbeat import LeaseHeartbeat

        ports = self.ports()
        with LeaseHeartbeat(ports.ledger, run_id, lane, ports.clock):
            yield ports

    def ingest_options(self, run_id: str) -> IngestOptions:
        from analytics_defs.wiring import ingest_options

        return ingest_options(self.settings(), run_id)

    def tail_options(self, lanes: int) -> TailOptions:
        """Return the options to tail one of `lanes` lanes.

        `lanes` is the number at planning time. It overrides LANES, because the partitions of a lane depend on it. 0: use LANES.
        """
        from analytics_defs.wiring import tail_options

        settings = self.settings()
        return tail_options(settings.model_copy(update={"lanes": lanes}) if lanes else settings)

    def web_context(self, run_id: str, scheduling: SchedulerProbe) -> WebContext:
        """Return the context of the endpoint, with clients that no run shares."""
        from analytics_defs.wiring import web_context

        return web_context(self.settings(), run_id, scheduling)


@contextmanager
def as_dagster_failures(metadata: Callable[[], Mapping[str, Any]] = dict) -> Iterator[None]:
    """Raise each AnalyticsError of the block as `dg.Failure`: its message, and whether Dagster may retry.

    `metadata` is called after the error. It returns what was done until then.
    """
    try:
        yield
    except AnalyticsError as error:
        raise dg.Failure(
            description=str(error), metadata={"error": type(error).__name__, **metadata()}, allow_retries=error.retryable
        ) from error
