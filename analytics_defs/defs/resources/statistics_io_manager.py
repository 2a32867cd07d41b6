"""Statistics as pandas DataFrames, for whoever loads an asset in a notebook or takes it as an input.

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

STATISTICS_ASSETS = {"hourly_event_stats": HOURLY, "daily_event_stats": DAILY, "product_activity": ACTIVITY}
"""Folder below `aggregates/` by asset."""


class StatisticsIOManager(dg.IOManager):
    """Reads what the flows wrote. It writes nothing itself: the assets return no value."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Statistics are in the bucket before the asset returns."""

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """One row, or one a product, for each partition asked for. Raises where one was never materialized."""
        import pandas as pd

        name, archive = STATISTICS_ASSETS[context.asset_key.to_user_string()], self._platform.ports().object_store
        frames: list[Any] = []
        with as_dagster_failures():
            for period in context.asset_partition_keys:
                data = archive.get(key := aggregate_key(name, period))
                if data is None:
                    raise NotFound(f"{key} is not there: materialize {context.asset_key.to_user_string()} for {period} first")
                frames.append(pd.read_parquet(io.BytesIO(data)))
        return pd.concat(frames, ignore_index=True)
