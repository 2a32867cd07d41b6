"""Read again the records of a batch that was begun and not staged: from Kafka, or for a redrive from its dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from analytics_defs.core.events.event import ClassifiedRecord, Event, classify
from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord
from analytics_defs.core.offsets import Record, Source
from analytics_defs.core.storage import dead_letter_files
from analytics_defs.core.storage.object_keys import batch_id_of_ndjson_key
from analytics_defs.errors import InconsistentState, Unavailable
from analytics_defs.flows.deferred_errors import raise_first
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.read_batch import offsets_without_record, raise_on_data_loss, ranges_read, require_same_topics
from analytics_defs.flows.stored.expired_data import expired_dead_letters_of
from analytics_defs.ports import Ports


def reread_batch(batch: Batch, ports: Ports, options: IngestOptions) -> StagedBatch:
    """Read exactly the ranges of the batch again. Nothing of it was claimed yet. Offsets of a deleted incarnation are lost.

    The records are classified by the rules stored with the batch. Newer rules could turn rejections into events,
    of more hours than one transaction can close.
    """
    if batch.kind is BatchKind.REDRIVE:
        return _reread_redrive(batch, ports, options)
    snapshot = ports.ledger.snapshot()
    for reason in filter(None, (snapshot.unreadable_reason(range_.topic_partition) for range_ in batch.ranges)):
        raise InconsistentState(reason)
    deleted = tuple(
        range_ for range_ in batch.ranges if range_.topic_partition.incarnation < snapshot.topics[range_.topic_partition.topic].incarnation
    )
    current = [range_ for range_ in batch.ranges if range_ not in deleted]
    require_same_topics(current, snapshot, ports)
    reading = ports.event_log.read(current, lambda _: True)
    raise_first(list(reading.errors.values()))
    if ranges_read(current, reading) != tuple(current):
        raise Unavailable(
            f"batch {batch.id}: Kafka returned only {', '.join(map(str, ranges_read(current, reading)))} of {', '.join(map(str, current))}"
        )
    raise_on_data_loss(reading, options)
    lost = tuple(sorted((*deleted, *reading.lost)))
    records = _classify_all(reading.records, batch, options)
    gaps = ports.event_log.explain_gaps(offsets_without_record(current, records, lost))
    require_same_topics(current, snapshot, ports)
    return StagedBatch(records, gaps, lost, options.write_event_json)


def _reread_redrive(batch: Batch, ports: Ports, options: IngestOptions) -> StagedBatch:
    records = [] if _are_dead_letters_expired(batch, ports) else read_batch_dead_letters(batch, ports)
    classified = _classify_all(records, batch, options)
    return StagedBatch(tuple(record for record in classified if isinstance(record, Event)), write_event_json=options.write_event_json)


def _are_dead_letters_expired(batch: Batch, ports: Ports) -> bool:
    """Return whether retention removed the redrive's dead letters. Nothing was claimed, so the redrive closes without them."""
    records = [record for key in batch.redrive_keys if (record := batch_of_dead_letter_file(key, ports))]
    return any(
        expired_dead_letters_of(record, ports) and ports.object_store.get(record.dead_letters_key or "") is None for record in records
    )


def _classify_all(records: Sequence[Record], batch: Batch, options: IngestOptions) -> tuple[ClassifiedRecord, ...]:
    rules = batch.rules or options.validation_rules
    return tuple(classify(record, rules, batch.time) for record in sorted(records, key=lambda record: record.source))


def read_batch_dead_letters(batch: Batch, ports: Ports) -> list[Record]:
    """Read the redriven records from the dead-letter files. Raise InconsistentState if one is missing or a file was altered."""
    records: dict[Source, Record] = {}
    for key in batch.redrive_keys:
        closed = batch_of_dead_letter_file(key, ports)
        if closed is None:
            raise InconsistentState(f"redrive {batch.id}: {key} is no file of a closed batch, expected the one that a batch record names.")
        dead_letters = dead_letter_files.read_dead_letters(closed, ports.object_store.get(key))
        records |= {dead_letter.record.source: dead_letter.record for dead_letter in dead_letters}
    missing = [str(source) for source in batch.redriven_sources if source not in records]
    if missing:
        raise InconsistentState(
            f"redrive {batch.id}: {', '.join(missing)} are not in {', '.join(batch.redrive_keys)}. Restore the objects."
        )
    return [records[source] for source in batch.redriven_sources]


def batch_of_dead_letter_file(key: str, ports: Ports) -> BatchRecord | None:
    """Return the record of the closed batch that names this dead-letter file. None for copies, foreign objects and pending batches."""
    batch_id = batch_id_of_ndjson_key(key)
    record = ports.ledger.batch_record(batch_id) if batch_id else None
    return record if record and record.dead_letters_key == key else None
