"""The definitions. Each run waits before its step, while it renews its lease, as long as the file HOLD_RUNS exists.

Runs of lanes do not wait, and neither does the health endpoint, which runs until it is stopped.
"""

# No postponed annotations here: Dagster reads the type of `context`.

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from analytics_defs.defs.ingest.job import LANE_TAG
from analytics_defs.defs.observability.endpoint import ENDPOINT_JOB
from analytics_defs.defs.resources import leased_platform as resource
from analytics_defs.defs.resources.platform import Platform

HOLD_VARIABLE = "HOLD_RUNS"
HOLD_RUNS = Path(os.environ.get(HOLD_VARIABLE, os.devnull))
_leased = contextmanager(resource.leased_platform.resource_fn)


@dg.resource
def held_platform(context: dg.InitResourceContext) -> Iterator[Platform]:
    with _leased(context) as platform:
        while _waits(context.run):
            time.sleep(0.1)
        yield platform


def _waits(run: dg.DagsterRun | None) -> bool:
    return run is not None and LANE_TAG not in run.tags and run.job_name != ENDPOINT_JOB and HOLD_RUNS.is_file()


resource.leased_platform = held_platform

from analytics_defs.definitions import defs  # noqa: E402 - it reads the resource that was replaced above

__all__ = ["defs"]
