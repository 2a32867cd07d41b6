"""The checks of lag, freshness, dead letters and stores fail when they should and state both numbers."""

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


def health_probes(platform: MemoryPlatform) -> dict[str, tuple[bool, str]]:
    settings, ports = platform.settings(), platform.ports()
    planning = plan_lanes(settings.kafka_topics, settings.planning_policy(), ports)
    evaluations = check_evaluations(planning, ports, alert_thresholds(settings))
    return {evaluation.check_name: (evaluation.passed, evaluation.description or "") for evaluation in evaluations}


def test_all_checks_pass_once_everything_is_read_also_on_a_quiet_topic(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    platform.clock.advance(timedelta(days=3))
    assert {name: passed for name, (passed, _) in health_probes(platform).items()} == {
        "lag": True,
        "freshness": True,
        "dead_letter_ratio": True,
    }


def test_lag_warns_with_the_number_the_limit_and_the_worst_partition(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform(max_lag=5)
    platform.produce(11)
    assert health_probes(platform)["lag"] == (False, f"11 records behind, expected at most 5 (MAX_LAG); most in {TOPIC}/0: 6")
    platform.run(instance)
    assert health_probes(platform)["lag"][0]


def test_freshness_warns_only_while_records_wait(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(2)
    assert health_probes(platform)["freshness"] == (True, "2 records are waiting for the first batch")
    platform.run(instance)
    platform.produce(3, start=2)
    platform.clock.advance(timedelta(minutes=9))
    assert health_probes(platform)["freshness"][0]
    platform.clock.advance(timedelta(minutes=2))
    passed, description = health_probes(platform)["freshness"]
    assert not passed
    assert description == "3 records are waiting; the last batch closed 660 s ago, expected within 600 s (MAX_COMMIT_AGE)"
    platform.run(instance)
    assert health_probes(platform)["freshness"] == (True, "no records are waiting")


def test_records_of_an_open_transaction_do_not_count_as_stale(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(2)
    platform.run(instance)
    platform.log.open_transaction(TOPIC, 0)
    platform.log.append(TOPIC, 0, b"behind a transaction")
    platform.clock.advance(timedelta(hours=1))
    assert health_probes(platform)["freshness"][0]
    assert platform.settings().max_lag > 1


def test_dead_letters_warn_above_their_ratio_with_reasons(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(18)
    platform.log.append(TOPIC, 0, b"not json")
    platform.run(instance)
    assert not health_probes(platform)["dead_letter_ratio"][0]
    assert "1 of 19 records of the last 1 batches are dead letters (5.26%)" in health_probes(platform)["dead_letter_ratio"][1]
    platform.produce(1, start=18)
    platform.run(instance)
    assert health_probes(platform)["dead_letter_ratio"][0]


def test_the_sensor_evaluates_the_checks_every_five_minutes(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    first = platform.tick(instance)
    names = {event.check_name for event in first.asset_events if isinstance(event, dg.AssetCheckEvaluation)}
    assert names == {"all_offsets_accounted_for", "lag", "freshness", "dead_letter_ratio"}
    platform.clock.advance(timedelta(minutes=4))
    assert [event for event in platform.tick(instance, first.cursor).asset_events if isinstance(event, dg.AssetCheckEvaluation)] == []


def test_the_button_evaluates_all_of_them(instance: dg.DagsterInstance) -> None:
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
    assert {evaluation.check_name for evaluation in result.get_asset_check_evaluations()} == {"lag", "freshness", "dead_letter_ratio"}


def test_no_run_of_an_hour_compares_the_stores() -> None:
    hourly = {"event_archive", "hourly_event_stats", "daily_event_stats", "product_activity", "restored_recent_events"}
    job = defs.resolve_implicit_global_asset_job_def()
    for name in hourly:
        run = job.get_subset(asset_selection={dg.AssetKey(name)})
        assert {node.name for node in run.graph.nodes} == {name}


def compare(platform: MemoryPlatform) -> dg.AssetCheckResult:
    result: Any = stores_consistent(platform=platform)
    assert isinstance(result, dg.AssetCheckResult)
    return result


def with_events_of_an_hour_ago(instance: dg.DagsterInstance, **settings: object) -> tuple[MemoryPlatform, str]:
    platform = MemoryPlatform(**settings)  # type: ignore[arg-type]
    assert isinstance(platform.clock, ManualClock)
    hour = hour_of(platform.clock.now() - timedelta(hours=1))
    platform.produce(10, hour=hour)
    platform.produce(3, start=10, hour="2024-01-15T10")
    platform.run(instance)
    return platform, hour


@pytest.mark.parametrize("compacted", [False, True])
def test_consistent_hours_are_named_including_late_ones(instance: dg.DagsterInstance, compacted: bool) -> None:
    platform, hour = with_events_of_an_hour_ago(instance)
    if compacted:
        compact_hour(hour, platform.ports(), platform.statistics_engine_factory())
    result = compare(platform)
    assert result.passed
    assert result.metadata["hours compared by id"].value == [hour, "2024-01-15T10"]


def test_every_hour_with_a_mismatch_is_listed_with_both_numbers_and_its_batches(instance: dg.DagsterInstance) -> None:
    platform, hour = with_events_of_an_hour_ago(instance)
    (batch,) = platform.ports().ledger.batches_of_hour(hour)
    objects, items = platform.ports().object_store.objects, platform.ports().recent_events.items  # type: ignore[attr-defined]
    del objects[part_key(hour, batch)]
    del items["event-11"]
    result = compare(platform)
    assert not result.passed
    mismatches = result.metadata["mismatches"]
    assert isinstance(mismatches, dg.TableMetadataValue)
    rows = [record.data for record in mismatches.records]
    assert {row["hour"] for row in rows} == {hour, "2024-01-15T10"}
    assert any(f"0 rows in {part_key(hour, batch)}, 10 in its record" in str(row["finding"]) and row["batches"] == batch for row in rows)
    assert any("1 ids not held by RecentEvents under their source, for example event-11" in str(row["finding"]) for row in rows)


def test_a_large_hour_is_compared_by_counts(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_hours, "MAX_EVENTS_COMPARED_BY_ID", 5)
    platform, hour = with_events_of_an_hour_ago(instance)
    compact_hour(hour, platform.ports(), platform.statistics_engine_factory())
    assert compare(platform).metadata["hours compared by counts"].value == [hour]
    assert compare(platform).passed
    platform.ports().ledger._hourly[hour, 0]["events"] += 1  # type: ignore[attr-defined]
    assert "11 events in the counters, 10 in the records of 1 batches" in str(compare(platform).metadata["mismatches"].value)
