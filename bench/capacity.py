"""A capacity model: lanes, workers, write units, PUTs and cost for a rate of events.

It combines measured speeds, the size of the platform's own requests, and list prices. It measures nothing and uses no
network. `python -m bench.capacity` prints the tables of the docs. Each assumption is a field with its source.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from analytics_defs.adapters.dynamodb import ledger_items as items
from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb import ledger_transactions as writes
from analytics_defs.adapters.dynamodb.attribute_values import item_size, recent_event_item
from analytics_defs.core.events.event import Event, ValidationRules, classify
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord, Lease, OutcomeCounts
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.core.storage.object_keys import batch_id
from analytics_defs.ports import RECENT_EVENTS_TTL
from analytics_defs.simulator.shop import CLEAN_MIX, messages

RATES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
MONTH = timedelta(hours=730)
_TIME = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
_TABLES = writes.LedgerTables("ledger", "aggregates")
_KB = 1024
SNAPSHOTS = 5
"""Ledger snapshots for each batch: one by its plan, the others by `flows.ingest.execute_plan`. A test counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices in US dollars: on demand, us-east-1, without tax, discount or free tier, as published in 2026-11."""

    write_units: float = 0.625e-6
    """One DynamoDB write request unit (since November 2024)."""
    table_gb_month: float = 0.25
    put: float = 0.005 / 1000
    """PUT, POST, LIST."""
    get: float = 0.0004 / 1000
    bucket_gb_month: float = 0.023
    vcpu_hour: float = 0.04048
    """Fargate, Linux, x86."""
    memory_gb_hour: float = 0.004445


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """The inputs of the model."""

    lane_with_objects: float = 621
    """Events per second of one lane, measured on two cores that are shared with the stores (docs/capacity.md).

    The latency of AWS allows more: 32 concurrent PUTs at 30 ms are 1,070/s, 8 concurrent transactions of 100 at 100 ms
    are 8,000/s. Whether a lane reaches this was not measured.
    """
    lane_without_objects: float = 1_335
    """Events per second of one lane without JSON objects."""
    utilization: float = 0.7
    """Planned ratio of a lane's speed. The rest is reserve to catch up after a pause."""
    batch_events: int = 10_000
    """`BATCH_MAX_RECORDS`. At a lower rate, batches are smaller."""
    tail_duration_seconds: float = 60
    """`TAIL_DURATION`."""
    tail_interval_seconds: float = 1
    """`TAIL_INTERVAL`: minimum time between two batches of a lane that keeps up."""
    min_interval_per_lane_seconds: float = 0.2
    """Minimum time between two batches, multiplied by the number of lanes."""
    run_interval_seconds: float = 10
    """Time between two batches if there are too many lanes to tail: a sensor tick of 5 s and the start of a run."""
    ranges: int = 4
    """Partitions of a lane: one of each of the four topics."""
    hours: int = 2
    """Event hours in a batch: the current hour and a late one."""
    parquet_bytes: float = 60
    """Bytes of an event in an archived hour: 175 MB for 3,000,000 events (docs/hours.md)."""
    run_vcpu: float = 1
    run_gb: float = 2
    """Memory of a run's task: the smallest size with one vCPU. Measured: 420 MiB for a micro-batch, 810 MB for an hour."""
    hourly_events_per_second: float = 81_500
    """Events per second of compaction and statistics in one process: half of 3,000,000 in 18.4 s (docs/hours.md).

    It is halved because that machine was faster.
    """
    service_vcpu: float = 1.75
    service_gb: float = 3.5
    """Code server, daemon, webserver and health endpoint, as in deploy/ecs."""
    prices: Prices = field(default_factory=Prices)

    def batch_interval_seconds(self, lanes: int) -> float:
        """Return the seconds between two batches of a lane that keeps up."""
        interval = max(self.tail_interval_seconds, lanes * self.min_interval_per_lane_seconds)
        return interval if interval < self.tail_duration_seconds else self.run_interval_seconds


@dataclass(frozen=True, slots=True)
class Requirements:
    """The resources and cost for one rate of events, with or without JSON objects."""

    rate: int
    write_event_json: bool
    lanes: int
    batches: float
    """Per second, all lanes."""
    write_units: float
    """Per second, all tables."""
    progress_units: float
    """Write units per second on the busiest ledger key, `progress`. The limit of one key is 1,000."""
    progress_read_units: float
    """Read units per second on the same key. The limit of one key is 3,000."""
    puts: float
    """Per second, all prefixes, including LIST requests."""
    hour_minutes: float
    """Minutes of one process for the archive and statistics of one hour."""
    monthly: Mapping[str, float]
    """Dollars by item."""

    @property
    def workers(self) -> int:
        """Concurrent runs: one for each lane, and the runs of the hourly assets."""
        return self.lanes + max(1, math.ceil(self.hour_minutes / 60 - 0.05))

    @property
    def cost(self) -> float:
        return sum(self.monthly.values())


def requirements(rate: int, *, write_event_json: bool, assumptions: Assumptions | None = None) -> Requirements:
    a = assumptions or Assumptions()
    lanes = math.ceil(rate / (a.utilization * (a.lane_with_objects if write_event_json else a.lane_without_objects)))
    batches = min(max(rate / a.batch_events, lanes / a.batch_interval_seconds(lanes)), float(rate))
    ledger, progress = ledger_units(max(1, round(rate / batches)), a.ranges, a.hours)
    leases = lanes / 5
    units = rate * event_units() + batches * ledger + leases
    # A batch: staging file, a part for each hour, a file of dead letters or duplicates, a LIST. An hour: see `hourly_puts`.
    puts = batches * (1 + a.hours + 1 + 1) + hourly_puts() / 3600 + (rate if write_event_json else 0)
    minutes = rate * 3600 / a.hourly_events_per_second / 60
    reads = batches * SNAPSHOTS * snapshot_units(lanes, a.ranges)
    result = Requirements(rate, write_event_json, lanes, batches, units, batches * progress + leases, reads, puts, minutes, {})
    return replace(result, monthly=_monthly(result, a))


def event_units() -> float:
    """Return the average write units of one claim: the item size in kilobytes, rounded up, twice for a transaction."""
    sizes = [size for size, _ in _sizes()]
    return 2 * sum(math.ceil(size / _KB) for size in sizes) / len(sizes)


def sample(count: int = 500) -> Iterator[Event]:
    """Yield events of the simulated shop as if read from Kafka. About 410 bytes each, as in the benchmarks."""
    for offset, message in enumerate(islice(messages(1, lambda: _TIME, CLEAN_MIX), count)):
        source = Source(TopicPartition(message.topic, 0, 3), 10_000_000 + offset)
        event = classify(
            Record(source, int(_TIME.timestamp() * 1000), message.key, message.value), ValidationRules(max_event_bytes=4 * 2**20), _TIME
        )
        if not isinstance(event, Event):
            raise TypeError(f"record {offset} of the simulated shop: expected an event, found {event}")
        yield event


def ledger_units(events: int, ranges: int, hours: int) -> tuple[int, int]:
    """Return the write units of one batch without its claims: in total, and on the key `progress`.

    They are computed from the actions of the platform's own transactions.
    """
    batch_ranges = [Range(TopicPartition("ProductUpdated", 0, number), 10**9, 10**9 + max(1, events // ranges)) for number in range(ranges)]
    batch = Batch(batch_id(_TIME, batch_ranges), BatchKind.INGEST, 3, _TIME, tuple(batch_ranges), "0" * 36)
    types = {"ProductCreated": 1, "ProductUpdated": events, "ProductDeleted": 1, "LowStockWarning": 1}
    record = BatchRecord(
        batch=batch,
        closed_at=_TIME,
        range_outcome_counts=tuple(OutcomeCounts(stored=len(range_)) for range_ in batch_ranges),
        types=types,
        hours={(_TIME - timedelta(hours=number)).strftime("%Y-%m-%dT%H"): types for number in range(hours)},
        reasons={"schema": 1},
        steps_ms=dict.fromkeys(("read", "begin", "stage", "claim", "event json", "encode", "files"), 1_000),
    )
    actions = [*writes.begin_batch_actions(batch, _TABLES), writes.mark_staged_action(batch.id, "0" * 64, _TABLES.ledger)]
    units = [_action_units(action) for action in (*actions, *writes.close_batch_actions(record, _TABLES))]
    return sum(count for _, count in units), sum(count for key, count in units if key == keys.PROGRESS_KEY)


def snapshot_units(lanes: int, ranges: int) -> int:
    """Return the read units of one snapshot with this number of active lanes.

    Each lane has its checkpoints, its lease and a pending batch.
    """
    partitions = [TopicPartition("ProductUpdated", 0, number) for number in range(ranges)]
    batch_ranges = tuple(Range(partition, 10**9, 10**9 + 99) for partition in partitions)
    batch = Batch(
        batch_id(_TIME, batch_ranges),
        BatchKind.INGEST,
        3,
        _TIME,
        batch_ranges,
        "0" * 36,
        rules=ValidationRules(max_event_bytes=4 * 2**20),
        staged="0" * 64,
    )
    fields = {"first": 0, "next": 10**9, "batch": batch.id, **dict.fromkeys(("stored", "duplicates", "dead_letters"), 10**6)}
    checkpoints = [items.to_item(keys.checkpoint_key(partition), fields) for partition in partitions]
    lane_bytes = sum(map(item_size, [*checkpoints, items.lease_item(Lease("0" * 36, 3, _TIME)), items.pending_item(batch)]))
    return math.ceil(lanes * lane_bytes / (4 * _KB))


def _action_units(action: Mapping[str, Mapping[str, Any]]) -> tuple[str, int]:
    """Return the partition key and the write units of an action.

    An update or a delete of a small item counts as one kilobyte. A transaction doubles the units.
    """
    [(kind, request)] = action.items()
    item = request["Item"] if kind == "Put" else request["Key"]
    return item["pk"]["S"], 2 * math.ceil(item_size(item) / _KB)


def hourly_puts() -> int:
    """Return the PUTs of one hour: archive, manifest, statistics under three prefixes, and about ten LIST requests."""
    return 1 + 1 + 3 + 10


def _monthly(result: Requirements, a: Assumptions) -> dict[str, float]:
    seconds, hours, p = MONTH.total_seconds(), MONTH.total_seconds() / 3600, a.prices
    events = result.rate * seconds
    kept = result.rate * RECENT_EVENTS_TTL.total_seconds()
    sizes = _sizes()
    item, body = sum(size for size, _ in sizes) / len(sizes), sum(size for _, size in sizes) / len(sizes)
    parts = result.batches * a.hours * seconds
    return {
        "claims and ledger": result.write_units * seconds * p.write_units,
        "table storage": kept * (item + 100) / 1e9 * p.table_gb_month,
        "PUTs": result.puts * seconds * p.put,
        # For each part: one request for its size, one read by compaction, one or two by statistics and checks.
        "GETs": 4 * parts * p.get,
        "bucket storage": events * (a.parquet_bytes + (body if result.write_event_json else 0)) / 1e9 * p.bucket_gb_month,
        "workers": result.workers * hours * (a.run_vcpu * p.vcpu_hour + a.run_gb * p.memory_gb_hour),
        "services": hours * (a.service_vcpu * p.vcpu_hour + a.service_gb * p.memory_gb_hour),
    }


@functools.cache
def _sizes() -> tuple[tuple[int, int], ...]:
    """Return item size and original size in bytes of each sampled event."""
    return tuple((item_size(recent_event_item(event, _TIME, RECENT_EVENTS_TTL)), len(event.data)) for event in sample())


def table(rates: Iterable[int] = RATES, assumptions: Assumptions | None = None) -> str:
    """Return the table as Markdown. A cell with two numbers is with and without JSON objects."""
    lines = [
        "| events/s | lanes | workers | write units/s | of these on the key `progress` | PUTs/s | work on one hour | $ a month |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rate in rates:
        both = [requirements(rate, write_event_json=kind, assumptions=assumptions) for kind in (True, False)]
        fields = [
            _two(*(result.lanes for result in both)),
            _two(*(result.workers for result in both)),
            _two(*(result.write_units for result in both)),
            _two(*(result.progress_units for result in both)),
            _two(*(result.puts for result in both)),
            _time(both[1].hour_minutes),
            _two(*(result.cost for result in both)),
        ]
        lines.append(f"| {rate:,} | {' | '.join(fields)} |")
    return "\n".join(lines)


def costs(rate: int, assumptions: Assumptions | None = None) -> str:
    """Return the monthly cost by item as Markdown."""
    both = [requirements(rate, write_event_json=kind, assumptions=assumptions).monthly for kind in (True, False)]
    lines = [f"| at {rate:,} events/s, $ a month | with objects | without |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {_short(both[0][name])} | {_short(both[1][name])} |" for name in both[0])])


def _two(first: float, second: float) -> str:
    return _short(first) if _short(first) == _short(second) else f"{_short(first)} / {_short(second)}"


def _short(value: float) -> str:
    """Return a number with at most three significant digits: the model is not more precise."""
    if value < 10:
        return f"{value:.1f}".removesuffix(".0")
    return f"{round(value, 2 - math.floor(math.log10(value))):,.0f}" if value >= 100 else f"{value:.0f}"


def _time(minutes: float) -> str:
    return f"{minutes / 60:.1f} h" if minutes >= 100 else f"{minutes:.0f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"


if __name__ == "__main__":
    import sys

    sys.stdout.write(f"{table()}\n\n{costs(1_000)}\n")
