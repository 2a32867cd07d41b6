"""The records of a batch that was taken and not staged, once more: from Kafka, or of a redrive from its dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analytics_defs.core.events.event import Event, Verdict, judge
from analytics_defs.core.ingest.batch_builder import Staged
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord
from analytics_defs.core.offsets import Record, Source
from analytics_defs.core.storage import dead_letter_files
from analytics_defs.core.storage.object_keys import batch_of_dead_letters
from analytics_defs.errors import Contradiction, Unavailable
from analytics_defs.flows.deferred_errors import raise_first
from analytics_defs.flows.ingest.read_batch import exact_ranges, holes_of, refuse_loss, same_topics
from analytics_defs.flows.stored.expired_data import letters_taken_of
from analytics_defs.ports import Ports

if TYPE_CHECKING:
    from analytics_defs.flows.ingest.execute_plan import Conduct


def read_again(batch: Batch, ports: Ports, conduct: Conduct) -> Staged:
    """The same ranges once more, whole, because nothing of the batch was claimed yet. Offsets of a topic that is no more are lost.

    By the rules under which it was taken: other rules may make events of its rejections, in more hours than one transaction closes.
    """
    if batch.kind is BatchKind.REDRIVE:
        again = () if _are_letters_taken(batch, ports) else _judged(letters_of(batch, ports), batch, conduct)
        return Staged(tuple(each for each in again if isinstance(each, Event)), event_objects=conduct.event_objects)
    snapshot = ports.ledger.snapshot()
    for why in filter(None, (snapshot.why_unreadable(each.topic_partition) for each in batch.ranges)):
        raise Contradiction(why)
    gone = tuple(each for each in batch.ranges if each.topic_partition.generation < snapshot.topics[each.topic_partition.topic].generation)
    there = [each for each in batch.ranges if each not in gone]
    same_topics(there, snapshot, ports)
    reading = ports.log.read(there, lambda _: True)
    raise_first(list(reading.faults.values()))
    if exact_ranges(there, reading) != tuple(there):
        raise Unavailable(
            f"batch {batch.id}: Kafka gave only {', '.join(map(str, exact_ranges(there, reading)))} of {', '.join(map(str, there))}"
        )
    refuse_loss(reading, conduct)
    lost = tuple(sorted((*gone, *reading.lost)))
    verdicts = _judged(reading.records, batch, conduct)
    gaps = ports.log.explain(holes_of(there, verdicts, lost))
    same_topics(there, snapshot, ports)
    return Staged(verdicts, gaps, lost, conduct.event_objects)


def _are_letters_taken(batch: Batch, ports: Ports) -> bool:
    """Retention removed the redrive's dead letters before it was taken, and nothing of it was claimed: it closes with none of them."""
    records = [record for key in batch.redrive_keys if (record := writer_of(key, ports))]
    return any(letters_taken_of(each, ports) and ports.archive.get(each.dead_letters_key or "") is None for each in records)


def _judged(records: Sequence[Record], batch: Batch, conduct: Conduct) -> tuple[Verdict, ...]:
    rules = batch.rules or conduct.rules
    return tuple(judge(record, rules, batch.time) for record in sorted(records, key=lambda record: record.source))


def letters_of(batch: Batch, ports: Ports) -> list[Record]:
    """The records a redrive puts through, from the dead-letter files. Raises Contradiction where one is missing, or a file was altered."""
    found: dict[Source, Record] = {}
    for key in batch.redrive_keys:
        record = writer_of(key, ports)
        if record is None:
            raise Contradiction(f"redrive {batch.id}: {key} is no file of a closed batch, expected the one that a batch record names.")
        found |= {each.record.source: each.record for each in dead_letter_files.kept_letters(record, ports.archive.get(key))}
    missing = [str(source) for source in batch.redrives if source not in found]
    if missing:
        raise Contradiction(f"redrive {batch.id}: {', '.join(missing)} are not in {', '.join(batch.redrive_keys)}. Restore the objects.")
    return [found[source] for source in batch.redrives]


def writer_of(key: str, ports: Ports) -> BatchRecord | None:
    """The record of the closed batch that names this dead-letter file as its own. None: a copy, a stranger, or its batch is not closed."""
    batch_id = batch_of_dead_letters(key)
    record = ports.ledger.record(batch_id) if batch_id else None
    return record if record and record.dead_letters_key == key else None
