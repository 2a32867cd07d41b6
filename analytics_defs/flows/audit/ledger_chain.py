"""Audit of the ledger's own chain: each closed batch has its record, its ranges and its hours, and each checkpoint is their sum.

    records of closed batches ──► entries and checkpoints that they require ──► compare with the stored ones ──► name the differences

One query reads all records, one the ranges of a partition, one the entries of an hour. A first reading compares digests only, so that
memory does not grow with the ledger. A second reading names what differs: a transaction may be visible in some items and not in others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.counter_adjustments import FIRST_BATCH_ID
from analytics_defs.core.ingest.batch_accounting import checkpoint_changes
from analytics_defs.core.ledger import BatchRecord, ClosedRange
from analytics_defs.core.ledger_chain import ClosedOffsets, pending_findings, record_entries, topic_findings
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.storage.object_keys import batch_time
from analytics_defs.core.timestamps import hour_of
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.progress import ProgressCallback, no_progress
from analytics_defs.ports import Ports

RANGES_PER_PAGE = 1_000
MAX_FINDINGS = 1_000
"""The number of findings that an audit names."""


@dataclass(frozen=True, slots=True)
class ChainAudit:
    """The closed batches in the ledger, and what is missing, altered or superfluous beside their records."""

    batches: int
    findings: tuple[str, ...]


def audit_chain(ports: Ports, progress: ProgressCallback = no_progress) -> ChainAudit:
    """Compare the entries, checkpoints, topics and revisions with the batch records. Batches that close meanwhile are left out."""
    batches = 0
    try:
        first = _Reading(ports, progress)
        batches = first.batches
        groups = {group for group in first.groups() if first.digests[group] != _digest(_stored_entries(group, ports))}
        partitions = first.checkpoint_findings().keys()
        pending = set(pending_findings(first.snapshot))
        findings = [*topic_findings(first.snapshot), *_revision_findings(first.hours, ports)]
        if groups or partitions or pending or first.redriven_findings:
            second = _Reading(ports, progress, groups)
            findings += [message for partition, message in second.checkpoint_findings().items() if partition in partitions]
            findings += [message for message in pending_findings(second.snapshot) if message in pending]
            findings += sorted(first.redriven_findings & second.redriven_findings)
            findings += [finding for group in sorted(groups) for finding in _entry_findings(group, second, ports)]
    except InconsistentState as error:
        findings = [f"{error} The ledger's chain was compared up to this item only."]
    return ChainAudit(batches, tuple(findings[:MAX_FINDINGS]))


class _Reading:
    """The entries and checkpoints that the records of the closed batches require. A group is a topic-partition or an hour, as text."""

    def __init__(self, ports: Ports, progress: ProgressCallback, named_groups: Collection[str] = ()) -> None:
        self.snapshot = ports.ledger.snapshot()
        self.digests = defaultdict[str, int](int)
        self.entries = defaultdict[str, set[Hashable]](set)
        """The entries of the named groups."""
        self.hours = set[str](ports.ledger.hourly_counters("0000", "9999"))
        self.redriven_findings = set[str]()
        self.batches = 0
        self._closed, self._later = defaultdict[TopicPartition, ClosedOffsets](ClosedOffsets), list[ClosedRange]()
        for record in ports.ledger.batch_records_from(FIRST_BATCH_ID):
            progress("batch records read", self.batches, self.batches)
            self._add(record, named_groups)
            if record.redriven:
                self._compare_redriven(record, ports)
        self._after = ports.ledger.snapshot()

    def groups(self) -> list[str]:
        """Return all groups. Hours are those of the records and of the counters."""
        partitions = {str(topic_partition) for topic_partition in self.snapshot.checkpoints} | set(self.digests) - self.hours
        return sorted({*partitions, *self.hours})

    def _add(self, record: BatchRecord, named_groups: Collection[str]) -> None:
        later = [closed for closed in record.closed_ranges if self._is_later(closed)]
        if later:
            self._later += later
            return
        self.batches += 1
        self.hours |= record.hours.keys()
        for group, entry in record_entries(record):
            self.digests[group] = _add_to_digest(self.digests[group], entry)
            if group in named_groups:
                self.entries[group].add(entry)
        for closed in record.closed_ranges:
            self._closed[closed.range.topic_partition].add(closed)
        for topic_partition, change in checkpoint_changes(record).items():
            self._closed[topic_partition].totals += change

    def _compare_redriven(self, record: BatchRecord, ports: Ports) -> None:
        for name in ports.ledger.differing_entries(record):
            if name.startswith("redriven#"):
                command = _repair_command(record.batch.id)
                self.redriven_findings.add(
                    f"{name}: the entry of redrive {record.batch.id} is missing or altered. {command} writes it again."
                )

    def _is_later(self, closed: ClosedRange) -> bool:
        checkpoint = self.snapshot.checkpoints.get(closed.range.topic_partition)
        return checkpoint is not None and closed.range.end > checkpoint.next_offset

    def checkpoint_findings(self) -> dict[TopicPartition, str]:
        """Return a finding for each checkpoint that is missing, or is not the sum of the records."""
        findings = dict[TopicPartition, str]()
        for topic_partition, closed in self._closed.items():
            checkpoint = self.snapshot.checkpoints.get(topic_partition)
            if closed.length and closed.differs_from(checkpoint):
                findings[topic_partition] = closed.finding(topic_partition, checkpoint)
        for closed_range in self._later:
            topic_partition, end = closed_range.range.topic_partition, closed_range.range.end
            checkpoint = self._after.checkpoints.get(topic_partition)
            if checkpoint is None or checkpoint.next_offset < end:
                findings[topic_partition] = (
                    f"checkpoint#{topic_partition}: expected a next offset of at least {end}, because batch {closed_range.batch_id} closed "
                    f"{closed_range.range}, found {checkpoint.next_offset if checkpoint else 'none'}. Stop ingest, and restore the item "
                    "from a backup of the table: the partition would be read again."
                )
        for topic_partition, checkpoint in self.snapshot.checkpoints.items():
            if topic_partition not in self._closed and checkpoint.next_offset != checkpoint.first_offset:
                findings[topic_partition] = (
                    f"checkpoint#{topic_partition}: it accounts for [{checkpoint.first_offset}, {checkpoint.next_offset}), and no batch "
                    "record does. Restore the records from a backup of the table."
                )
        return findings


def _stored_entries(group: str, ports: Ports) -> Iterator[Hashable]:
    if "/" not in group:
        yield from ports.ledger.batches_of_hour(group)
        return
    topic_partition, after = TopicPartition.parse(group), 0
    while page := ports.ledger.closed_ranges_after(topic_partition, after, RANGES_PER_PAGE):
        yield from page
        after = page[-1].range.end


def _digest(entries: Iterator[Hashable]) -> int:
    digest = 0
    for entry in entries:
        digest = _add_to_digest(digest, entry)
    return digest


def _add_to_digest(digest: int, entry: Hashable) -> int:
    """Add an entry to a digest that does not depend on the order. Valid in this process only."""
    return (digest + hash((entry, "ledger"))) & (2**64 - 1)


def _entry_findings(group: str, reading: _Reading, ports: Ports) -> Iterator[str]:
    """Yield what differs in one group. An entry that only the store has counts if no record holds it."""
    expected, stored = reading.entries[group], set(_stored_entries(group, ports))
    kind = "range" if "/" in group else "hour"
    for entry in sorted(expected - stored, key=str):
        batch_id = _batch_id(entry)
        yield (
            f"{kind}#{group}: the entry of batch {batch_id} {_range_text(entry)}is missing or altered. "
            f"{_repair_command(batch_id)} writes it again from the batch record."
        )
    for entry in sorted(stored - expected, key=str):
        record = ports.ledger.batch_record(_batch_id(entry))
        if record is None:
            yield (
                f"{kind}#{group}: the entry of batch {_batch_id(entry)} {_range_text(entry)}has no batch record. Restore the record from a "
                "backup of the table, or remove the entry if it is foreign."
            )
        elif (group, entry) not in set(record_entries(record)) and not _is_rewritten(entry, expected):
            yield f"{kind}#{group}: batch {_batch_id(entry)} {_range_text(entry)}has no such entry by its record. Remove it."


def _is_rewritten(entry: Hashable, expected: set[Hashable]) -> bool:
    """Return whether a repair writes another entry under the key of this one."""
    return isinstance(entry, ClosedRange) and any(
        isinstance(other, ClosedRange) and other.range.end == entry.range.end for other in expected
    )


def _batch_id(entry: Hashable) -> str:
    return entry.batch_id if isinstance(entry, ClosedRange) else str(entry)


def _range_text(entry: Hashable) -> str:
    return f"with {entry.range} " if isinstance(entry, ClosedRange) else ""


def _repair_command(batch_id: str) -> str:
    """Return the command that repairs a batch, by the hour in which it was cut."""
    hour = hour_of(batch_time(batch_id))
    end = hour_of(datetime.fromisoformat(f"{hour}:00+00:00") + timedelta(hours=1))
    return f"`analytics repair --from {hour} --to {end}`"


def _revision_findings(hours: Collection[str], ports: Ports) -> Iterator[str]:
    """Yield batches that the newest revision of an hour names, and that have no entry of the hour and no record."""
    for hour in sorted(hours):
        revision = ports.ledger.latest_revision(hour)
        unknown = revision.known_batches - set(ports.ledger.batches_of_hour(hour)) if revision else frozenset[str]()
        for batch_id in sorted(unknown):
            if ports.ledger.batch_record(batch_id) is None:
                yield f"archive#{hour}: its revision names batch {batch_id}, which has no record. Restore the record from a backup."
