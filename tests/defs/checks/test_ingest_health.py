"""The checks beside the equation fail when they should, say why with both numbers, and are quiet otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from analytics_defs.adapters.memory import ManualClock
from analytics_defs.core.storage.object_keys import part_key
from analytics_defs.core.timestamps import hour_of
from analytics_defs.definitions import defs
from analytics_defs.defs.checks.ingest_health import alert_thresholds, check_evaluations, stores_consistent
from analytics_defs.flows.audit import recent_hours
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.ingest.planning import plan_lanes
from tests.defs.memory_platform import TOPIC, MemoryPlatform


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def signs(platform: MemoryPlatform) -> dict[str, tuple[bool, str]]:
    settings, ports = platform.settings(), platform.ports()
    found = check_evaluations(plan_lanes(settings.kafka_topics, settings.planning_policy(), ports), ports, alert_thresholds(settings))
    return {each.check_name: (each.passed, each.description or "") for each in found}


def test_all_is_well_when_everything_is_read_and_stays_so_on_a_quiet_topic(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    platform.clock.advance(timedelta(days=3))
    assert {name: well for name, (well, _) in signs(platform).items()} == {"lag": True, "freshness": True, "dead_letter_ratio": True}


def test_lag_warns_with_the_number_the_bound_and_the_worst_partition(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform(max_lag=5)
    platform.produce(11)
    assert signs(platform)["lag"] == (False, f"11 records behind, expected at most 5 (MAX_LAG); most in {TOPIC}/0: 6")
    platform.run(instance)
    assert signs(platform)["lag"][0]


def test_freshness_warns_only_while_something_waits(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(2)
    assert signs(platform)["freshness"] == (True, "2 records are waiting for the first batch")
    platform.run(instance)
    platform.produce(3, start=2)
    platform.clock.advance(timedelta(minutes=9))
    assert signs(platform)["freshness"][0]
    platform.clock.advance(timedelta(minutes=2))
    well, said = signs(platform)["freshness"]
    assert not well
    assert said == "3 records are waiting; the last batch closed 660 s ago, expected within 600 s (MAX_COMMIT_AGE)"
    platform.run(instance)
    assert signs(platform)["freshness"] == (True, "no records are waiting")


def test_what_an_open_transaction_holds_back_is_no_silence(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(2)
    platform.run(instance)
    platform.log.open_transaction(TOPIC, 0)
    platform.log.append(TOPIC, 0, b"held back")
    platform.clock.advance(timedelta(hours=1))
    assert signs(platform)["freshness"][0]
    assert platform.settings().max_lag > 1


def test_dead_letters_warn_above_their_share_with_reasons(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(18)
    platform.log.append(TOPIC, 0, b"not json")
    platform.run(instance)
    assert not signs(platform)["dead_letter_ratio"][0]
    assert "1 of 19 records of the last 1 batches are dead letters (5.26%)" in signs(platform)["dead_letter_ratio"][1]
    platform.produce(1, start=18)
    platform.run(instance)
    assert signs(platform)["dead_letter_ratio"][0]


def test_the_sensor_reports_them_once_a_minute(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    first = platform.tick(instance)
    names = {event.check_name for event in first.asset_events if isinstance(event, dg.AssetCheckEvaluation)}
    assert names == {"all_offsets_accounted_for", "lag", "freshness", "dead_letter_ratio"}
    platform.clock.advance(timedelta(seconds=30))
    assert [event for event in platform.tick(instance, first.cursor).asset_events if isinstance(event, dg.AssetCheckEvaluation)] == []


def test_the_button_asks_for_all_of_them(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(3)
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_check_selection={
            dg.AssetCheckKey(dg.AssetKey("recent_events"), "lag"),
            dg.AssetCheckKey(dg.AssetKey("recent_events"), "freshness"),
            dg.AssetCheckKey(dg.AssetKey("dead_letters"), "dead_letter_ratio"),
        },
        asset_selection=set(),
    )
    result = job.execute_in_process(instance=instance, resources={"platform": platform})
    assert {each.check_name for each in result.get_asset_check_evaluations()} == {"lag", "freshness", "dead_letter_ratio"}


# The stores' agreement.


def test_no_run_of_an_hour_compares_the_stores_of_all_of_them() -> None:
    hourly = {"event_archive", "hourly_event_stats", "daily_event_stats", "product_activity", "restored_recent_events"}
    job = defs.resolve_implicit_global_asset_job_def()
    for name in hourly:
        run = job.get_subset(asset_selection={dg.AssetKey(name)})
        assert {node.name for node in run.graph.nodes} == {name}


def agree(platform: MemoryPlatform) -> dg.AssetCheckResult:
    found: Any = stores_consistent(platform=platform)
    assert isinstance(found, dg.AssetCheckResult)
    return found


def an_hour_ago(instance: dg.DagsterInstance, **settings: object) -> tuple[MemoryPlatform, str]:
    platform = MemoryPlatform(**settings)  # type: ignore[arg-type]
    assert isinstance(platform.clock, ManualClock)
    hour = hour_of(platform.clock.now() - timedelta(hours=1))
    platform.produce(10, hour=hour)
    platform.produce(3, start=10, hour="2024-01-15T10")
    platform.run(instance)
    return platform, hour


@pytest.mark.parametrize("compacted", [False, True])
def test_hours_that_agree_are_named_and_late_hours_are_among_them(instance: dg.DagsterInstance, compacted: bool) -> None:
    platform, hour = an_hour_ago(instance)
    if compacted:
        compact_hour(hour, platform.ports(), platform.workspace_factory())
    found = agree(platform)
    assert found.passed
    assert found.metadata["hours compared by id"].value == [hour, "2024-01-15T10"]


def test_every_hour_that_disagrees_is_listed_with_both_numbers_and_its_batches(instance: dg.DagsterInstance) -> None:
    platform, hour = an_hour_ago(instance)
    (batch,) = platform.ports().ledger.batches_of_hour(hour)
    objects, items = platform.ports().object_store.objects, platform.ports().recent_events.items  # type: ignore[attr-defined]
    del objects[part_key(hour, batch)]
    del items["event-11"]
    found = agree(platform)
    assert not found.passed
    disagreeing = found.metadata["what disagrees"]
    assert isinstance(disagreeing, dg.TableMetadataValue)
    rows = [record.data for record in disagreeing.records]
    assert {row["hour"] for row in rows} == {hour, "2024-01-15T10"}
    assert any(f"0 rows in {part_key(hour, batch)}, 10 in its record" in str(row["finding"]) and row["batches"] == batch for row in rows)
    assert any("1 ids not held by RecentEvents under their source, for example event-11" in str(row["finding"]) for row in rows)


def test_a_large_hour_is_compared_by_its_counts(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_hours, "MAX_EVENTS_COMPARED_BY_ID", 5)
    platform, hour = an_hour_ago(instance)
    compact_hour(hour, platform.ports(), platform.workspace_factory())
    assert agree(platform).metadata["hours compared by counts"].value == [hour]
    assert agree(platform).passed
    platform.ports().ledger._hourly[hour, 0]["events"] += 1  # type: ignore[attr-defined]
    assert "11 events in the counters, 10 in the records of 1 batches" in str(agree(platform).metadata["what disagrees"].value)
