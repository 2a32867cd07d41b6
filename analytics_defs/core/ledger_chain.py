"""What the records of closed batches require of the ledger's other items. Values only."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, BatchRecord, Checkpoint, ClosedRange, LedgerSnapshot, OutcomeCounts
from analytics_defs.core.offsets import TopicPartition


def record_entries(record: BatchRecord) -> Iterator[tuple[str, Hashable]]:
    """Yield the group and the value of each entry that leads to the record."""
    yield from ((str(closed.range.topic_partition), closed) for closed in record.closed_ranges)
    yield from ((hour, record.batch.id) for hour in record.hours)


class ClosedOffsets:
    """The closed offsets of one partition by the batch records."""

    def __init__(self) -> None:
        self.first, self.next, self.length, self.totals = 0, 0, 0, OutcomeCounts()

    def add(self, closed: ClosedRange) -> None:
        self.first = min(self.first, closed.range.start) if self.length else closed.range.start
        self.next = max(self.next, closed.range.end)
        self.length += len(closed.range)

    def differs_from(self, checkpoint: Checkpoint | None) -> bool:
        """Return whether the checkpoint is another one, or the records miss an offset or hold it twice."""
        if checkpoint is None or self.length != self.next - self.first:
            return True
        return (checkpoint.first_offset, checkpoint.next_offset, checkpoint.totals) != (self.first, self.next, self.totals)

    def finding(self, topic_partition: TopicPartition, checkpoint: Checkpoint | None) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.totals.as_dict().items() if count)
        found = (
            f"first {checkpoint.first_offset}, next {checkpoint.next_offset} and {checkpoint.totals.as_dict()}" if checkpoint else "no item"
        )
        if self.length != self.next - self.first:
            return (
                f"checkpoint#{topic_partition}: the batch records hold {self.length} offsets of [{self.first}, {self.next}), found "
                f"{found}. A record is missing, or foreign: restore it from a backup of the table, or remove it."
            )
        return (
            f"checkpoint#{topic_partition}: expected first {self.first}, next {self.next}, {counts or 'no outcomes'} by the batch records, "
            f"found {found}. Restore the item with these values."
        )


def pending_findings(snapshot: LedgerSnapshot) -> Iterator[str]:
    """Yield checkpoints and pending batches that do not name each other."""
    named = {
        checkpoint.pending_batch_id: partition for partition, checkpoint in snapshot.checkpoints.items() if checkpoint.pending_batch_id
    }
    for batch_id, partition in named.items():
        if batch_id not in {*snapshot.pending, *snapshot.unreadable}:
            yield f"pending#{batch_id}: expected an item, because checkpoint#{partition} names it, found none. Restore it from a backup."
    for batch in snapshot.pending.values():
        for range_ in batch.ranges:
            checkpoint = snapshot.checkpoints.get(range_.topic_partition)
            if checkpoint is None or checkpoint.pending_batch_id != batch.id:
                yield (
                    f"pending#{batch.id}: expected checkpoint#{range_.topic_partition} to name it, found {checkpoint or 'no checkpoint'}. "
                    "Restore the checkpoint from a backup, or remove the entry if it is foreign."
                )


def topic_findings(snapshot: LedgerSnapshot) -> Iterator[str]:
    """Yield topics that are missing, or do not start where their checkpoints start."""
    for partition, checkpoint in sorted(snapshot.checkpoints.items()):
        topic = snapshot.topics.get(partition.topic)
        if partition == REDRIVE_CHECKPOINT or partition.topic in snapshot.unreadable:
            continue
        if topic is None or topic.incarnation < partition.incarnation:
            yield (
                f"topic#{partition.topic}: expected at least incarnation {partition.incarnation}, because checkpoint#{partition} exists, "
                f"found {topic.incarnation if topic else 'no item'}. Restore the item from a backup of the table."
            )
        elif topic.incarnation == partition.incarnation and topic.start(partition.partition) != checkpoint.first_offset:
            yield (
                f"topic#{partition.topic}: partition {partition.partition} starts at {topic.start(partition.partition)}, and "
                f"checkpoint#{partition} at {checkpoint.first_offset}. One of them was changed: restore it from a backup of the table."
            )
