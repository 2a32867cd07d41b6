"""A user backfills two days of hours in the UI, cancels the backfill, and launches it again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from analytics_defs.core.storage.object_keys import manifest_key, parquet_dir
from tests.devstack.waiting import until
from tests.real import data, raw_clients, world
from tests.real.user_interface import dagster_dev
from tests.real.world import World

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
BEGIN = datetime(2024, 3, 5, tzinfo=UTC)
HOURS = [(BEGIN + timedelta(hours=number)).strftime("%Y-%m-%dT%H") for number in range(48)]


def compacted_hours(platform: World) -> set[str]:
    """Return the hours with a manifest. Fail if a manifest names a file that does not exist."""
    hours = set()
    for hour in HOURS:
        names = {key.rpartition("/")[2] for key in raw_clients.keys(platform.bucket, parquet_dir(hour))}
        if "_SUCCESS.json" in names:
            manifest = json.loads(raw_clients.get(platform.bucket, manifest_key(hour)).body)
            assert manifest["rows"] == 2
            assert {file["name"] for file in manifest["files"]} <= names
            hours.add(hour)
    return hours


def test_a_canceled_backfill_of_48_hours_can_be_launched_again(tmp_path: Path) -> None:
    with raw_clients.topics(1) as topics, world.new_world(topics) as platform:
        raw_clients.produce(
            [raw_clients.Written(topics[0], 0, data.event(f"{hour} {number}", hour)) for hour in HOURS for number in range(2)]
        )
        platform.settle()
        with dagster_dev(platform.settings, tmp_path) as ui:
            ui.stop_sensor("hourly_automation")
            first = ui.launch_backfill("event_archive", HOURS)
            until(lambda: len(compacted_hours(platform)) > 6, seconds=120)
            ui.cancel_backfill(first)
            until(lambda: ui.backfill_status(first) == "CANCELED", seconds=120)
            assert 6 < len(compacted_hours(platform)) <= 48
            second = ui.launch_backfill("event_archive", HOURS)
            until(lambda: ui.backfill_status(second) == "COMPLETED_SUCCESS", seconds=240)
            assert compacted_hours(platform) == set(HOURS)
            assert ui.materialized("event_archive") == 48
            assert [run["status"] for run in ui.runs_of(second)] == ["SUCCESS"] * 8
