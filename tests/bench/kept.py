"""What an event takes in each tree of the archive: `.venv/bin/python -m tests.bench.kept [events] [events a batch]`.

The simulated shop's events of one hour, through the ingest and the compaction themselves, on memory doubles: bytes do not depend on the
store.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from analytics_defs.adapters.duckdb.statistics import duck_calculator
from analytics_defs.adapters.memory import InlineWorkers, ManualClock, MemoryArchive, MemoryLedger, MemoryLog, MemoryRecentEvents
from analytics_defs.core.events.event import EVENT_TYPES, Rules
from analytics_defs.core.ingest.batch_builder import Limits
from analytics_defs.core.ingest.planning import Policy
from analytics_defs.flows.hours.compaction import compact
from analytics_defs.flows.ingest.execute_plan import Conduct, ingest
from analytics_defs.flows.ingest.planning import look
from analytics_defs.ports import Ports
from analytics_defs.simulator.shop import FLAWLESS, messages

HOUR = "2024-01-15T10"
BEGIN = datetime(2024, 1, 15, 10, tzinfo=UTC)


def main(events: int = 40_000, in_batch: int = 4_000) -> None:
    log, archive, ledger, clock = MemoryLog(), MemoryArchive(), MemoryLedger(), ManualClock(BEGIN)
    for topic in EVENT_TYPES:
        log.create_topic(topic)
    step = timedelta(hours=1) / (events + 1)
    ports = Ports(log, MemoryRecentEvents(), archive, ledger, clock, InlineWorkers())
    shop = messages(1, clock.now, FLAWLESS)
    while some := list(islice(shop, min(in_batch, events))):
        events -= len(some)
        for message in some:
            log.append(message.topic, 0, message.value, key=message.key, timestamp_ms=int(clock.now().timestamp() * 1000))
            clock.advance(step)
        (plan,) = filter(None, look(EVENT_TYPES, Policy(), ports).plans)
        ingest(plan, ports, Conduct("bench", Rules(max_event_bytes=2**20), Limits(max_events=in_batch)))
    trees = {name: _bytes(archive, prefix) for name, prefix in (("JSON objects", "events/"), ("parts", "parquet/"))}
    count = ledger.counters()["events"]
    compact(HOUR, ports, partial(duck_calculator, 384, 2))
    trees["archive"] = _bytes(archive, "parquet/")
    for name, size in trees.items():
        print(f"{name}: {size / count:.0f} bytes an event ({count:,} events, {in_batch:,} in a batch)")  # noqa: T201


def _bytes(archive: MemoryArchive, prefix: str) -> int:
    return sum(len(blob.body) for key, blob in archive.objects.items() if key.startswith(prefix))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
