"""A user backfills two days of hours in the UI, terminates it in the middle, and asks again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from analytics_defs.core.storage.object_keys import manifest_key, parquet_dir
from tests.devstack.waiting import until
from tests.real import data, plain, world
from tests.real.user_interface import dagster_dev
from tests.real.world import World

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
BEGIN = datetime(2024, 3, 5, tzinfo=UTC)
HOURS = [(BEGIN + timedelta(hours=number)).strftime("%Y-%m-%dT%H") for number in range(48)]


def archived(found: World) -> set[str]:
    """Hours with a marker. Each one is whole: the marker is written last, and names files that are there."""
    hours = set()
    for hour in HOURS:
        names = {key.rpartition("/")[2] for key in plain.keys(found.bucket, parquet_dir(hour))}
        if "_SUCCESS.json" in names:
            said = json.loads(plain.get(found.bucket, manifest_key(hour)).body)
            assert said["rows"] == 2
            assert {each["name"] for each in said["files"]} <= names
            hours.add(hour)
    return hours


def test_forty_eight_hours_are_backfilled_terminated_in_the_middle_and_continued(tmp_path: Path) -> None:
    with plain.topics(1) as topics, world.new_world(topics) as found:
        plain.produce([plain.Written(topics[0], 0, data.event(f"{hour} {turn}", hour)) for hour in HOURS for turn in range(2)])
        found.settle()
        with dagster_dev(found.settings, tmp_path) as ui:
            ui.stop_sensor("hourly_automation")
            first = ui.launch_backfill("event_archive", HOURS)
            until(lambda: len(archived(found)) > 6, seconds=120)
            ui.cancel_backfill(first)
            until(lambda: ui.backfill_status(first) == "CANCELED", seconds=120)
            assert 6 < len(archived(found)) <= 48
            again = ui.launch_backfill("event_archive", HOURS)
            until(lambda: ui.backfill_status(again) == "COMPLETED_SUCCESS", seconds=240)
            assert archived(found) == set(HOURS)
            assert ui.materialized("event_archive") == 48
            assert [run["status"] for run in ui.runs_of(again)] == ["SUCCESS"] * 8
