"""The platform resource of the definitions. It holds a lease for every run that uses it."""

# No postponed annotations here: Dagster reads the type of `context`.

from collections.abc import Iterator
from contextlib import ExitStack, suppress

import dagster as dg

from analytics_defs.defs.ingest.job import LANE_TAG
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.errors import AnalyticsError


@dg.resource(description="The platform of the environment's settings. In a run it also renews the lease of the run.")
def leased_platform(context: dg.InitResourceContext) -> Iterator[Platform]:
    """Yield the platform, and renew the lease of the run until the run ends.

    A run of a lane renews its lease itself, after it has compared its platform with that of its plan. In a sensor there is no run.
    """
    platform = Platform()
    with ExitStack() as stack:
        if context.run is not None and LANE_TAG not in context.run.tags:
            with suppress(AnalyticsError):  # wrong settings: the step fails with the same error and its message
                stack.enter_context(platform.lease_heartbeat(context.run.run_id, lane=None))
        yield platform
