"""Retention on real servers. Old data is deleted, foreign objects and late events stay, and two concurrent executions do no harm."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from analytics_defs import wiring
from analytics_defs.adapters.memory import ManualClock
from analytics_defs.core.hours.retention import MIN_RETENTION, RetentionPolicy
from analytics_defs.core.repair import HourRange
from analytics_defs.core.storage.object_keys import event_key, reused_id_event_key
from analytics_defs.errors import DataExpired
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.repair import repair_range as repair
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.expiry_sweep import RetentionContext, RetentionReport
from analytics_defs.flows.trace.trace import trace_record
from tests.real import data, raw_clients, world
from tests.real.raw_clients import Written
from tests.real.world import World

pytestmark = pytest.mark.real

ALL = RetentionPolicy(MIN_RETENTION, MIN_RETENTION, MIN_RETENTION)


def run(platform: World, dry_run: bool = False) -> RetentionReport:
    return apply_retention(RetentionContext(platform.ports, wiring.statistics_engine_factory(platform.settings), ALL, dry_run))


def remaining(platform: World) -> set[str]:
    """Return all keys of the bucket except manifests and statistics."""
    return {key for key in raw_clients.keys(platform.bucket) if not key.startswith("aggregates/") and not key.endswith("_SUCCESS.json")}


def test_old_data_is_deleted_and_foreign_objects_and_late_events_stay() -> None:
    clock = ManualClock(world.this_second())
    with raw_clients.topics(2, 1) as topics, world.new_world(topics, clock, batch_max_ranges=2) as platform:
        raw_clients.produce(data.mixture(*topics))
        platform.settle()
        compact_hour(data.HOURS[1], platform.ports, wiring.statistics_engine_factory(platform.settings))
        foreign_parquet = "parquet/year=2024/month=01/day=15/hour=10/x.parquet"
        foreign = {"events/2024/01/15/10/notes.json", "dead-letters/copy.ndjson", foreign_parquet}
        for key in foreign:
            raw_clients.s3().put_object(Bucket=platform.bucket, Key=key, Body=b"{}")
        before, counters = remaining(platform), platform.ports.ledger.counters()
        clock.advance(MIN_RETENTION + timedelta(hours=1))

        dry_run = run(platform, dry_run=True)
        assert remaining(platform) == before
        assert {objects.tree for objects in dry_run.deleted} == {"events", "parquet", "dead-letters", "duplicates"}
        with ThreadPoolExecutor(2) as pool:  # each has its own clients, because one thread at a time can use the Kafka client
            first = pool.submit(run, platform)
            with world.opened(platform.settings, clock) as second_client:
                second = pool.submit(run, second_client)
                reports = [first.result(), second.result()]
        again = run(platform)
        assert remaining(platform) == foreign
        assert set(again.foreign_keys) == foreign
        assert (again.deleted, again.skipped_hours) == ([], [])
        for tree in ("events", "dead-letters", "duplicates"):  # of Parquet, a compaction on the way deletes some
            deleted = sum(objects.objects for report in reports for objects in report.deleted if objects.tree == tree)
            assert deleted >= sum(key.startswith(f"{tree}/") for key in before - foreign) > 0
        assert platform.ports.ledger.counters() == counters
        platform.assert_consistent(foreign_parquet)

        clock.advance(timedelta(seconds=1))
        raw_clients.produce(
            [Written(topics[0], 0, data.event("event-0", late=True)), Written(topics[0], 0, data.event("huge", text="x" * 600_000))]
        )
        platform.settle()
        assert run(platform).deleted == []
        for event_id in ("event-0", "huge"):
            source = platform.ports.recent_events.get_items([event_id])[event_id].source
            assert {event_key(data.HOUR, event_id), reused_id_event_key(data.HOUR, event_id, source)} <= remaining(platform)
            assert trace_record(event_id, platform.ports).item == "held"
        assert compact_hour(data.HOUR, platform.ports, wiring.statistics_engine_factory(platform.settings)).created
        platform.assert_consistent(foreign_parquet)

        rules = wiring.ingest_options(platform.settings, "repair").validation_rules
        context = repair.RepairContext(platform.ports, wiring.statistics_engine_factory(platform.settings), rules)
        with pytest.raises(DataExpired, match="retention has removed data of"):
            repair.repair_range(HourRange("2024-01-15T00", "2024-01-17T00"), context)
        clock.advance(MIN_RETENTION)
        last = run(platform)
        assert last.skipped_hours == []
        assert remaining(platform) == foreign
        assert replace(run(platform), foreign_keys=[], foreign_count=0) == RetentionReport()
        platform.assert_consistent(foreign_parquet)
