"""Bytes of an event under each prefix of the archive: `.venv/bin/python -m tests.bench.kept [events] [events
per batch]`.

Ingests and compacts the simulated shop's events of one hour on memory doubles. The sizes do not depend on the store.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.adapters.memory import InlineTaskPool, ManualClock, MemoryEventLog, MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Ports
from analytics_defs.simulator.shop import CLEAN_MIX, messages

HOUR = "2024-01-15T10"
BEGIN = datetime(2024, 1, 15, 10, tzinfo=UTC)


def main(events: int = 40_000, in_batch: int = 4_000) -> None:
    log, object_store, ledger, clock = MemoryEventLog(), MemoryObjectStore(), MemoryLedger(), ManualClock(BEGIN)
    for topic in EVENT_TYPES:
        log.create_topic(topic)
    step = timedelta(hours=1) / (events + 1)
    ports = Ports(log, MemoryRecentEvents(), object_store, ledger, clock, InlineTaskPool())
    shop = messages(1, clock.now, CLEAN_MIX)
    while batch := list(islice(shop, min(in_batch, events))):
        events -= len(batch)
        for message in batch:
            log.append(message.topic, 0, message.value, key=message.key, timestamp_ms=int(clock.now().timestamp() * 1000))
            clock.advance(step)
        (plan,) = filter(None, plan_lanes(EVENT_TYPES, PlanningPolicy(), ports).plans)
        execute_plan(plan, ports, IngestOptions("bench", ValidationRules(max_event_bytes=2**20), BatchLimits(max_records=in_batch)))
    trees = {name: _bytes(object_store, prefix) for name, prefix in (("JSON objects", "events/"), ("parts", "parquet/"))}
    count = ledger.counters()["events"]
    compact_hour(HOUR, ports, partial(duckdb_statistics, 384, 2))
    trees["archive"] = _bytes(object_store, "parquet/")
    for name, size in trees.items():
        print(f"{name}: {size / count:.0f} bytes per event ({count:,} events, {in_batch:,} per batch)")  # noqa: T201


def _bytes(object_store: MemoryObjectStore, prefix: str) -> int:
    return sum(len(stored.body) for key, stored in object_store.objects.items() if key.startswith(prefix))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
