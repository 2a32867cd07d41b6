"""The records of a batch that was taken and not staged, once more: from Kafka, or of a redrive from its dead letters."""

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
from analytics_defs.flows.ingest.read_batch import offsets_without_record, refuse_data_loss, require_exact_ranges, require_same_topics
from analytics_defs.flows.stored.expired_data import expired_dead_letters_of
from analytics_defs.ports import Ports


def reread_batch(batch: Batch, ports: Ports, conduct: IngestOptions) -> StagedBatch:
    """The same ranges once more, whole, because nothing of the batch was claimed yet. Offsets of a topic that is no more are lost.

    By the rules under which it was taken: other rules may make events of its rejections, in more hours than one transaction closes.
    """
    if batch.kind is BatchKind.REDRIVE:
        again = () if _are_letters_taken(batch, ports) else _judged(read_batch_dead_letters(batch, ports), batch, conduct)
        return StagedBatch(tuple(each for each in again if isinstance(each, Event)), write_event_json=conduct.write_event_json)
    snapshot = ports.ledger.snapshot()
    for why in filter(None, (snapshot.unreadable_reason(each.topic_partition) for each in batch.ranges)):
        raise InconsistentState(why)
    gone = tuple(
        each for each in batch.ranges if each.topic_partition.incarnation < snapshot.topics[each.topic_partition.topic].incarnation
    )
    there = [each for each in batch.ranges if each not in gone]
    require_same_topics(there, snapshot, ports)
    reading = ports.event_log.read(there, lambda _: True)
    raise_first(list(reading.errors.values()))
    if require_exact_ranges(there, reading) != tuple(there):
        raise Unavailable(
            f"batch {batch.id}: Kafka gave only {', '.join(map(str, require_exact_ranges(there, reading)))} of {', '.join(map(str, there))}"
        )
    refuse_data_loss(reading, conduct)
    lost = tuple(sorted((*gone, *reading.lost)))
    verdicts = _judged(reading.records, batch, conduct)
    gaps = ports.event_log.explain_gaps(offsets_without_record(there, verdicts, lost))
    require_same_topics(there, snapshot, ports)
    return StagedBatch(verdicts, gaps, lost, conduct.write_event_json)


def _are_letters_taken(batch: Batch, ports: Ports) -> bool:
    """Retention removed the redrive's dead letters before it was taken, and nothing of it was claimed: it closes with none of them."""
    records = [record for key in batch.redrive_keys if (record := writing_batch(key, ports))]
    return any(expired_dead_letters_of(each, ports) and ports.object_store.get(each.dead_letters_key or "") is None for each in records)


def _judged(records: Sequence[Record], batch: Batch, conduct: IngestOptions) -> tuple[ClassifiedRecord, ...]:
    rules = batch.rules or conduct.validation_rules
    return tuple(classify(record, rules, batch.time) for record in sorted(records, key=lambda record: record.source))


def read_batch_dead_letters(batch: Batch, ports: Ports) -> list[Record]:
    """The records a redrive puts through, from the dead-letter files. Raises InconsistentState where one is missing, or a file was altered."""
    found: dict[Source, Record] = {}
    for key in batch.redrive_keys:
        record = writing_batch(key, ports)
        if record is None:
            raise InconsistentState(f"redrive {batch.id}: {key} is no file of a closed batch, expected the one that a batch record names.")
        found |= {each.record.source: each.record for each in dead_letter_files.read_dead_letters(record, ports.object_store.get(key))}
    missing = [str(source) for source in batch.redriven_sources if source not in found]
    if missing:
        raise InconsistentState(
            f"redrive {batch.id}: {', '.join(missing)} are not in {', '.join(batch.redrive_keys)}. Restore the objects."
        )
    return [found[source] for source in batch.redriven_sources]


def writing_batch(key: str, ports: Ports) -> BatchRecord | None:
    """The record of the closed batch that names this dead-letter file as its own. None: a copy, a stranger, or its batch is not closed."""
    batch_id = batch_id_of_ndjson_key(key)
    record = ports.ledger.batch_record(batch_id) if batch_id else None
    return record if record and record.dead_letters_key == key else None
