"""What changed in the archive since the last report: hours, from the batches closed since. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analytics_defs.core.ledger import BatchRecord, LedgerSnapshot
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import InconsistentState
from analytics_defs.ports import Ledger

MAX_HOURS_PER_REPORT = 500
"""Hours reported at once: each is a row of Dagster's event log."""
MAX_RANGES_PER_REPORT = 200
"""Closed ranges looked at per partition at once."""
MAX_UNREADABLE_BATCHES = 100
"""Batches passed over because their record cannot be read. Where there are more, the partitions wait: the cursor stays small."""


@dataclass(slots=True)
class HourChange:
    """What closed batches added to one hour."""

    events: int = 0
    batches: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """What to report, and what to keep once it was reported."""

    hours: dict[str, HourChange]
    cursor: dict[str, int]
    """By topic-partition, the offset up to which closed ranges were reported. It follows offsets and no clock, so no late close hides."""
    unreadable_batches: list[str] = field(default_factory=list)
    """Batches passed over, because their record cannot be read: their hours are reported once it can."""
    faults: list[str] = field(default_factory=list)
    """What cannot be read in the ledger, and what to do. It holds back its own batch or partition only."""


def changed_hours(cursor: Mapping[str, int], held: Sequence[str], snapshot: LedgerSnapshot, ledger: Ledger) -> Changes:
    """Every hour that a batch closed since `cursor`, or one of those `held`, added to, at least once; at most about `MAX_HOURS`."""
    changes = Changes({}, dict(cursor))
    seen: set[str] = set()
    for batch_id in held:
        _look_at(batch_id, changes, seen, ledger)
    for topic_partition, head in sorted(snapshot.checkpoints.items()):
        if head.next_offset > changes.cursor.get(str(topic_partition), head.first_offset):
            try:
                _follow(topic_partition, head.first_offset, changes, seen, ledger)
            except InconsistentState as fault:
                changes.faults.append(str(fault))
    return changes


def _follow(topic_partition: TopicPartition, first: int, changes: Changes, seen: set[str], ledger: Ledger) -> None:
    name = str(topic_partition)
    for closed in ledger.closed_ranges_after(topic_partition, changes.cursor.get(name, first), MAX_RANGES_PER_REPORT):
        if closed.batch_id not in seen:
            if len(changes.hours) >= MAX_HOURS_PER_REPORT or len(changes.unreadable_batches) >= MAX_UNREADABLE_BATCHES:
                return
            _look_at(closed.batch_id, changes, seen, ledger)
        changes.cursor[name] = closed.range.end


def _look_at(batch_id: str, changes: Changes, seen: set[str], ledger: Ledger) -> None:
    seen.add(batch_id)
    try:
        record = ledger.batch_record(batch_id)
        if record is None:
            raise InconsistentState(
                f"closed ranges name batch {batch_id}, which has no record in the ledger. Restore it from a backup of the table."
            )
    except InconsistentState as fault:
        changes.unreadable_batches.append(batch_id)
        changes.faults.append(f"{fault} Until then the hours that batch {batch_id} added to are not reported; everything else is.")
    else:
        _add(record, changes)


def _add(record: BatchRecord, changes: Changes) -> None:
    for hour, by_type in record.hours.items():
        change = changes.hours.setdefault(hour, HourChange())
        change.events += sum(by_type.values())
        change.batches.append(record.batch.id)
