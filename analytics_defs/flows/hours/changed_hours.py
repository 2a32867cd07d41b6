"""Hours that changed since the last report, from the batches closed since. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analytics_defs.core.ledger import BatchRecord, LedgerSnapshot
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import InconsistentState
from analytics_defs.ports import Ledger

MAX_HOURS_PER_REPORT = 500
"""Maximum number of hours in one report. Each is a row in Dagster's event log."""
MAX_RANGES_PER_REPORT = 200
"""Maximum number of closed ranges read per partition and report."""
MAX_UNREADABLE_BATCHES = 100
"""Maximum number of skipped batches whose record cannot be read. Above it the partitions wait, so that the cursor stays small."""


@dataclass(slots=True)
class HourChange:
    """Events and batches that closed batches added to one hour."""

    events: int = 0
    batches: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """Changed hours, and the state to store after they were reported."""

    hours: dict[str, HourChange]
    cursor: dict[str, int]
    """Offset by topic-partition up to which closed ranges were reported. It is no time, so a late close is never missed."""
    unreadable_batches: list[str] = field(default_factory=list)
    """Skipped batches whose record cannot be read. Their hours are reported once it can."""
    errors: list[str] = field(default_factory=list)
    """Unreadable items of the ledger, and what to do. Each delays only its own batch or partition."""


def changed_hours(cursor: Mapping[str, int], unreadable_batches: Sequence[str], snapshot: LedgerSnapshot, ledger: Ledger) -> Changes:
    """Return every hour changed by a batch that closed since `cursor` or is in `unreadable_batches`.

    Each change is reported at least once. A report holds about `MAX_HOURS_PER_REPORT` hours; the next report continues.
    """
    changes = Changes({}, dict(cursor))
    seen: set[str] = set()
    for batch_id in unreadable_batches:
        _add_batch(batch_id, changes, seen, ledger)
    for topic_partition, checkpoint in sorted(snapshot.checkpoints.items()):
        if checkpoint.next_offset > changes.cursor.get(str(topic_partition), checkpoint.first_offset):
            try:
                _add_partition(topic_partition, checkpoint.first_offset, changes, seen, ledger)
            except InconsistentState as error:
                changes.errors.append(str(error))
    return changes


def _add_partition(topic_partition: TopicPartition, first_offset: int, changes: Changes, seen: set[str], ledger: Ledger) -> None:
    """Add the ranges of one partition that closed after the cursor, and move the cursor."""
    name = str(topic_partition)
    for closed in ledger.closed_ranges_after(topic_partition, changes.cursor.get(name, first_offset), MAX_RANGES_PER_REPORT):
        if closed.batch_id not in seen:
            if len(changes.hours) >= MAX_HOURS_PER_REPORT or len(changes.unreadable_batches) >= MAX_UNREADABLE_BATCHES:
                return
            _add_batch(closed.batch_id, changes, seen, ledger)
        changes.cursor[name] = closed.range.end


def _add_batch(batch_id: str, changes: Changes, seen: set[str], ledger: Ledger) -> None:
    seen.add(batch_id)
    try:
        record = ledger.batch_record(batch_id)
        if record is None:
            raise InconsistentState(
                f"closed ranges name batch {batch_id}, which has no record in the ledger. Restore it from a backup of the table."
            )
    except InconsistentState as error:
        changes.unreadable_batches.append(batch_id)
        changes.errors.append(f"{error} Until then the hours that batch {batch_id} added to are not reported; all other hours are.")
    else:
        _add_record(record, changes)


def _add_record(record: BatchRecord, changes: Changes) -> None:
    for hour, by_type in record.hours.items():
        change = changes.hours.setdefault(hour, HourChange())
        change.events += sum(by_type.values())
        change.batches.append(record.batch.id)
