"""How many lanes, workers, write units, PUTs and dollars a rate of events takes: measured figures, the code's own requests, list prices.

Nothing is measured here and no network is used: `python -m bench.capacity` prints the table in docs/capacity.md. Each assumption is a
field, with where it comes from.
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
"""Queries of all of `progress` for each batch: its plan's, and those of `flows.ingest.execute_plan`. A test counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars, on demand, us-east-1, without tax, discount or free tier. As published in 2026-11: look them up before you sign."""

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
class Assumed:
    """What the model takes for given."""

    lane_with_objects: float = 621
    """Events a second of one lane, measured (docs/capacity.md): two cores, shared with the stores. AWS's latency allows more: 32 PUTs in
    flight at 30 ms are 1,070/s, 8 transactions of 100 at 100 ms are 8,000/s. Whether a lane gets there was not measured."""
    lane_without: float = 1_335
    """The same without JSON objects."""
    busy: float = 0.7
    """Share of its speed a lane is planned for: the rest catches up after a pause."""
    batch_events: int = 10_000
    """`BATCH_MAX_RECORDS`; lanes with less close what there is."""
    follow_for_seconds: float = 60
    """`TAIL_DURATION`."""
    follow_every_seconds: float = 1
    """`TAIL_INTERVAL`: how often a lane that keeps up makes a batch at most."""
    followed_lane_seconds: float = 0.2
    """And not more often than this for each lane."""
    run_every_seconds: float = 10
    """The same where there are too many lanes to follow any: a tick of 5 s and the start of a run."""
    ranges: int = 4
    """Partitions a lane reads: one of each of the four topics, so there are four times as many partitions as lanes."""
    hours: int = 2
    """Event hours in a batch: this one and a late one."""
    parquet_bytes: float = 60
    """An event in an archived hour: 175 MB for 3,000,000 (docs/hours.md)."""
    run_vcpu: float = 1
    run_gb: float = 2
    """A run's task: a micro-batch takes up to 420 MiB, an hourly asset 810 MB, both measured; the smallest size of one vCPU."""
    hourly_events_per_second: float = 81_500
    """Compaction and statistics of an hour, by one process: half of 3,000,000 in 18.4 s (docs/hours.md), which is of a faster machine."""
    service_vcpu: float = 1.75
    service_gb: float = 3.5
    """Code server, daemon, webserver, health endpoint: as in deploy/ecs."""
    prices: Prices = field(default_factory=Prices)

    def batch_every_seconds(self, lanes: int) -> float:
        """How often a lane that keeps up makes a batch."""
        every = max(self.follow_every_seconds, lanes * self.followed_lane_seconds)
        return every if every < self.follow_for_seconds else self.run_every_seconds


@dataclass(frozen=True, slots=True)
class Need:
    """What one rate takes, with or without one object for each event."""

    rate: int
    write_event_json: bool
    lanes: int
    batches: float
    """A second, all lanes."""
    write_units: float
    """A second, all tables."""
    progress_units: float
    """Of these on the ledger's busiest key, `progress`: one key takes 1,000."""
    progress_read_units: float
    """A second, on the same key: one key gives 3,000."""
    puts: float
    """A second, all trees; lists too."""
    hour_minutes: float
    """One process's work on one hour's archive and statistics."""
    monthly: Mapping[str, float]
    """Dollars by what is paid for."""

    @property
    def workers(self) -> int:
        """Runs in flight: one a lane, and those that work on hours."""
        return self.lanes + max(1, math.ceil(self.hour_minutes / 60 - 0.05))

    @property
    def cost(self) -> float:
        return sum(self.monthly.values())


def need(rate: int, *, write_event_json: bool, assumed: Assumed | None = None) -> Need:
    a = assumed or Assumed()
    lanes = math.ceil(rate / (a.busy * (a.lane_with_objects if write_event_json else a.lane_without)))
    batches = min(max(rate / a.batch_events, lanes / a.batch_every_seconds(lanes)), float(rate))
    ledger, progress = ledger_units(max(1, round(rate / batches)), a.ranges, a.hours)
    leases = lanes / 5
    units = rate * event_units() + batches * ledger + leases
    # A batch: its staging file, a part for each hour, a file of dead letters or repeats, a list after it. An hour: see `hourly_puts`.
    puts = batches * (1 + a.hours + 1 + 1) + hourly_puts() / 3600 + (rate if write_event_json else 0)
    minutes = rate * 3600 / a.hourly_events_per_second / 60
    reads = batches * SNAPSHOTS * snapshot_units(lanes, a.ranges)
    found = Need(rate, write_event_json, lanes, batches, units, batches * progress + leases, reads, puts, minutes, {})
    return replace(found, monthly=_monthly(found, a))


def event_units() -> float:
    """Of one claim, on average: its item in kilobytes, rounded up, twice because a transaction writes it."""
    sizes = [size for size, _ in _sizes()]
    return 2 * sum(math.ceil(size / _KB) for size in sizes) / len(sizes)


def sample(count: int = 500) -> Iterator[Event]:
    """Events of the simulated shop, as Kafka would hand them over. About 410 bytes each, as those that were measured."""
    for offset, message in enumerate(islice(messages(1, lambda: _TIME, CLEAN_MIX), count)):
        source = Source(TopicPartition(message.topic, 0, 3), 10_000_000 + offset)
        verdict = classify(
            Record(source, int(_TIME.timestamp() * 1000), message.key, message.value), ValidationRules(max_event_bytes=4 * 2**20), _TIME
        )
        if not isinstance(verdict, Event):
            raise TypeError(f"the shop's event {offset} is none: {verdict}")
        yield verdict


def ledger_units(events: int, ranges: int, hours: int) -> tuple[int, int]:
    """Write units of one batch's life beside its claims, and those of them on the key `progress`: the code's own transactions, weighed."""
    ours = [Range(TopicPartition("ProductUpdated", 0, number), 10**9, 10**9 + max(1, events // ranges)) for number in range(ranges)]
    batch = Batch(batch_id(_TIME, ours), BatchKind.INGEST, 3, _TIME, tuple(ours), "0" * 36)
    types = {"ProductCreated": 1, "ProductUpdated": events, "ProductDeleted": 1, "LowStockWarning": 1}
    record = BatchRecord(
        batch=batch,
        closed_at=_TIME,
        tallies=tuple(OutcomeCounts(stored=len(each)) for each in ours),
        types=types,
        hours={(_TIME - timedelta(hours=number)).strftime("%Y-%m-%dT%H"): types for number in range(hours)},
        reasons={"schema": 1},
        steps_ms=dict.fromkeys(("read", "begin", "stage", "claim", "event json", "encode", "files"), 1_000),
    )
    actions = [*writes.begin_batch_actions(batch, _TABLES), writes.mark_staged_action(batch.id, "0" * 64, _TABLES.ledger)]
    weighed = [_weighed(each) for each in (*actions, *writes.close_batch_actions(record, _TABLES))]
    return sum(units for _, units in weighed), sum(units for pk, units in weighed if pk == keys.PROGRESS_KEY)


def snapshot_units(lanes: int, ranges: int) -> int:
    """Read units of one look at the progress of so many lanes at work: each with its heads, its lease and a pending batch."""
    partitions = [TopicPartition("ProductUpdated", 0, number) for number in range(ranges)]
    ours = tuple(Range(each, 10**9, 10**9 + 99) for each in partitions)
    batch = Batch(
        batch_id(_TIME, ours), BatchKind.INGEST, 3, _TIME, ours, "0" * 36, rules=ValidationRules(max_event_bytes=4 * 2**20), staged="0" * 64
    )
    head = {"first": 0, "next": 10**9, "batch": batch.id, **dict.fromkeys(("stored", "duplicates", "dead_letters"), 10**6)}
    heads = [items.to_item(keys.checkpoint_key(each), head) for each in partitions]
    lane = sum(map(item_size, [*heads, items.lease_item(Lease("0" * 36, 3, _TIME)), items.pending_item(batch)]))
    return math.ceil(lanes * lane / (4 * _KB))


def _weighed(action: Mapping[str, Mapping[str, Any]]) -> tuple[str, int]:
    """Its key's first half, and its units: an update or a delete of a small item weighs a kilobyte, and a transaction doubles it."""
    [(kind, what)] = action.items()
    item = what["Item"] if kind == "Put" else what["Key"]
    return item["pk"]["S"], 2 * math.ceil(item_size(item) / _KB)


def hourly_puts() -> int:
    """Of one hour, once: archive, marker, statistics in three trees, and some ten lists."""
    return 1 + 1 + 3 + 10


def _monthly(found: Need, a: Assumed) -> dict[str, float]:
    seconds, hours, p = MONTH.total_seconds(), MONTH.total_seconds() / 3600, a.prices
    events = found.rate * seconds
    kept = found.rate * RECENT_EVENTS_TTL.total_seconds()
    sizes = _sizes()
    item, body = sum(size for size, _ in sizes) / len(sizes), sum(size for _, size in sizes) / len(sizes)
    parts = found.batches * a.hours * seconds
    return {
        "claims and ledger": found.write_units * seconds * p.write_units,
        "table storage": kept * (item + 100) / 1e9 * p.table_gb_month,
        "PUTs": found.puts * seconds * p.put,
        # A part is asked for its size and read once by compaction, once or twice more by statistics and checks.
        "GETs": 4 * parts * p.get,
        "bucket storage": events * (a.parquet_bytes + (body if found.write_event_json else 0)) / 1e9 * p.bucket_gb_month,
        "workers": found.workers * hours * (a.run_vcpu * p.vcpu_hour + a.run_gb * p.memory_gb_hour),
        "services": hours * (a.service_vcpu * p.vcpu_hour + a.service_gb * p.memory_gb_hour),
    }


@functools.cache
def _sizes() -> tuple[tuple[int, int], ...]:
    """Item and original bytes of sampled events."""
    return tuple((item_size(recent_event_item(each, _TIME, RECENT_EVENTS_TTL)), len(each.data)) for each in sample())


def table(rates: Iterable[int] = RATES, assumed: Assumed | None = None) -> str:
    """Markdown. Two numbers in a field: with one JSON object for each event, and without."""
    lines = [
        "| events/s | lanes | workers | write units/s | of these on the key `progress` | PUTs/s | work on one hour | $ a month |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rate in rates:
        both = [need(rate, write_event_json=kind, assumed=assumed) for kind in (True, False)]
        fields = [
            _two(*(each.lanes for each in both)),
            _two(*(each.workers for each in both)),
            _two(*(each.write_units for each in both)),
            _two(*(each.progress_units for each in both)),
            _two(*(each.puts for each in both)),
            _time(both[1].hour_minutes),
            _two(*(each.cost for each in both)),
        ]
        lines.append(f"| {rate:,} | {' | '.join(fields)} |")
    return "\n".join(lines)


def costs(rate: int, assumed: Assumed | None = None) -> str:
    """What the month's dollars are for, as Markdown."""
    both = [need(rate, write_event_json=kind, assumed=assumed).monthly for kind in (True, False)]
    lines = [f"| at {rate:,} events/s, $ a month | with objects | without |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {_short(both[0][name])} | {_short(both[1][name])} |" for name in both[0])])


def _two(one: float, other: float) -> str:
    return _short(one) if _short(one) == _short(other) else f"{_short(one)} / {_short(other)}"


def _short(value: float) -> str:
    """Three digits are more than a model knows."""
    if value < 10:
        return f"{value:.1f}".removesuffix(".0")
    return f"{round(value, 2 - math.floor(math.log10(value))):,.0f}" if value >= 100 else f"{value:.0f}"


def _time(minutes: float) -> str:
    return f"{minutes / 60:.1f} h" if minutes >= 100 else f"{minutes:.0f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"


if __name__ == "__main__":
    import sys

    sys.stdout.write(f"{table()}\n\n{costs(1_000)}\n")
