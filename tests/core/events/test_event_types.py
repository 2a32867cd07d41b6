"""Every table by event type has all event types. A new type fails here, at the place that it still needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields

import pytest

from analytics_defs.adapters import charts
from analytics_defs.core.events import schema
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.hours.statistics import STATUSES, DayStats, HourStats, ProductStats

TABLES: dict[str, Collection[str]] = {
    "core/events/schema.py, _UPCAST": schema._UPCAST,
    "core/events/schema.py, _LEGACY": schema._LEGACY,
    "core/hours/statistics.py, STATUSES": STATUSES,
    "adapters/charts.py, _COLOURS": charts._COLOURS,
}


@pytest.mark.parametrize("place", TABLES)
def test_the_table_has_every_event_type(place: str) -> None:
    assert set(TABLES[place]) == set(EVENT_TYPES), f"complete the table in {place}"


@pytest.mark.parametrize("row", [HourStats, DayStats, ProductStats])
def test_the_statistics_count_every_event_type(row: type) -> None:
    assert set(STATUSES.values()) <= {field.name for field in fields(row)}, f"add a column to {row.__name__}"
