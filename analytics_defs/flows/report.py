"""What changed in the archive since the last report: hours, from the batches closed since. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from analytics_defs.core.ledger import BatchRecord, Snapshot
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import Contradiction
from analytics_defs.ports import Ledger

MAX_HOURS = 500
"""Hours reported at once: each is a row of Dagster's event log."""
MAX_RANGES = 200
"""Closed ranges looked at per partition at once."""


@dataclass(slots=True)
class HourChange:
    """What closed batches added to one hour."""

    events: int = 0
    batches: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """What to report, and the cursor to keep once it was reported."""

    hours: dict[str, HourChange]
    cursor: dict[str, int]
    """By topic-partition, the offset up to which closed ranges were reported. It follows offsets and no clock, so no late close hides."""


def changes_since(cursor: Mapping[str, int], snapshot: Snapshot, ledger: Ledger) -> Changes:
    """Every hour that a batch closed since `cursor` added to, at least once; at most about `MAX_HOURS`, the rest next time."""
    changes = Changes({}, dict(cursor))
    records: dict[str, BatchRecord] = {}
    for topic_partition, head in sorted(snapshot.heads.items()):
        if head.next > changes.cursor.get(str(topic_partition), head.first):
            _follow(topic_partition, head.first, changes, records, ledger)
    return changes


def _follow(topic_partition: TopicPartition, first: int, changes: Changes, records: dict[str, BatchRecord], ledger: Ledger) -> None:
    name = str(topic_partition)
    for closed in ledger.ranges_after(topic_partition, changes.cursor.get(name, first), MAX_RANGES):
        record = records.get(closed.batch_id)
        if record is None:
            if len(changes.hours) >= MAX_HOURS:
                return
            found = ledger.record(closed.batch_id)
            if found is None:
                raise Contradiction(f"{closed.range} names batch {closed.batch_id}, which has no record in the ledger")
            record = records[closed.batch_id] = found
            _add(record, changes)
        changes.cursor[name] = closed.range.end


def _add(record: BatchRecord, changes: Changes) -> None:
    for hour, by_type in record.hours.items():
        change = changes.hours.setdefault(hour, HourChange())
        change.events += sum(by_type.values())
        change.batches.append(record.batch.id)
