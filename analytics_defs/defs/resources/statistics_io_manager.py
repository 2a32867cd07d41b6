"""An IO manager that loads statistics as pandas DataFrames, for notebooks and for assets that take them as an input.

from analytics_defs.definitions import defs
frame = defs.load_asset_value("hourly_event_stats", partition_key="2024-01-15T10")
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import dagster as dg

from analytics_defs.core.storage.object_keys import aggregate_key
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.errors import NotFound
from analytics_defs.flows.hours.statistics import ACTIVITY, DAILY, HOURLY

if TYPE_CHECKING:
    import pandas as pd

STATISTICS_IO_MANAGER = "statistics_io_manager"
"""The resource key of the IO manager."""
STATISTICS_ASSETS = {"hourly_event_stats": HOURLY, "daily_event_stats": DAILY, "product_activity": ACTIVITY}
"""Folder below `aggregates/` by asset."""


class StatisticsIOManager(dg.IOManager):
    """An IO manager that reads what the flows wrote. It writes nothing, because the assets return no value."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Do nothing: the statistics are in the bucket before the asset returns."""

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """Return the rows of all requested partitions: one a period, or one a product of a day.

        Raise a Failure if a partition was never materialized.
        """
        import pandas as pd

        name, object_store = STATISTICS_ASSETS[context.asset_key.to_user_string()], self._platform.ports().object_store
        frames: list[Any] = []
        with as_dagster_failures():
            for period in context.asset_partition_keys:
                data = object_store.get(key := aggregate_key(name, period))
                if data is None:
                    raise NotFound(f"{key} does not exist: materialize {context.asset_key.to_user_string()} for {period} first")
                frames.append(pd.read_parquet(io.BytesIO(data)))
        return pd.concat(frames, ignore_index=True)
