"""Retention on real servers: all that is old goes, what is foreign or late stays, and two at once do no harm."""

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
from analytics_defs.flows.repair import repair_range as replays
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.sweep import RetentionContext, RetentionReport
from analytics_defs.flows.trace.trace import trace_record
from tests.real import data, plain, world
from tests.real.plain import Written
from tests.real.world import World

pytestmark = pytest.mark.real

ALL = RetentionPolicy(MIN_RETENTION, MIN_RETENTION, MIN_RETENTION)


def run(found: World, write: bool = True) -> RetentionReport:
    return apply_retention(RetentionContext(found.ports, wiring.workspace_factory(found.settings), ALL, write))


def left(found: World) -> set[str]:
    """What is there but markers and statistics."""
    return {key for key in plain.keys(found.bucket) if not key.startswith("aggregates/") and not key.endswith("_SUCCESS.json")}


def test_what_is_old_goes_and_what_is_foreign_or_late_stays() -> None:
    clock = ManualClock(world.this_second())
    with plain.topics(2, 1) as topics, world.new_world(topics, clock, batch_max_ranges=2) as found:
        plain.produce(data.mixture(*topics))
        found.settle()
        compact_hour(data.HOURS[1], found.ports, wiring.workspace_factory(found.settings))
        foreign = {"events/2024/01/15/10/notes.json", "dead-letters/copy.ndjson", "parquet/year=2024/month=01/day=15/hour=10/x.parquet"}
        for key in foreign:
            plain.s3().put_object(Bucket=found.bucket, Key=key, Body=b"{}")
        before, counters = left(found), found.ports.ledger.counters()
        clock.advance(MIN_RETENTION + timedelta(hours=1))

        looked = run(found, write=False)
        assert left(found) == before
        assert {each.tree for each in looked.deleted} == {"events", "parquet", "dead-letters", "duplicates"}
        with ThreadPoolExecutor(2) as pool:  # each over clients of its own: Kafka's is used by one thread at a time
            first = pool.submit(run, found)
            with world.opened(found.settings, clock) as other:
                second = pool.submit(run, other)
                reports = [first.result(), second.result()]
        again = run(found)
        assert left(found) == foreign
        assert set(again.foreign_keys) == foreign
        assert (again.deleted, again.skipped_hours) == ([], [])
        assert sum(each.objects for each in reports) > 100
        assert found.ports.ledger.counters() == counters
        found.assert_sound()

        clock.advance(timedelta(seconds=1))
        plain.produce(
            [Written(topics[0], 0, data.event("event-0", late=True)), Written(topics[0], 0, data.event("huge", text="x" * 600_000))]
        )
        found.settle()
        assert run(found).deleted == []
        for event_id in ("event-0", "huge"):
            source = found.ports.recent_events.get_items([event_id])[event_id].source
            assert {event_key(data.HOUR, event_id), reused_id_event_key(data.HOUR, event_id, source)} <= left(found)
            assert trace_record(event_id, found.ports).item == "held"
        assert compact_hour(data.HOUR, found.ports, wiring.workspace_factory(found.settings)).created
        found.assert_sound()

        rules = wiring.ingest_options(found.settings, "repair").validation_rules
        means = replays.RepairContext(found.ports, wiring.workspace_factory(found.settings), rules)
        with pytest.raises(DataExpired, match="retention has removed data of"):
            replays.repair_range(HourRange("2024-01-15T00", "2024-01-17T00"), means)
        clock.advance(MIN_RETENTION)
        last = run(found)
        assert last.skipped_hours == []
        assert left(found) == foreign
        assert replace(run(found), foreign_keys=[], foreign_count=0) == RetentionReport()
        found.assert_sound()
