"""Surviving records of a closed batch: in Kafka, in parts, in hour archives, in JSON objects and in its duplicates file."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice

from analytics_defs.core.events.event import ClassifiedRecord, Event, ValidationRules, classify
from analytics_defs.core.hours.manifest import manifest_bytes
from analytics_defs.core.hours.revision import ArchiveRevision, merge_summaries
from analytics_defs.core.ingest.batch_builder import single_offset_range, uncovered_ranges
from analytics_defs.core.ledger import BatchKind, BatchRecord
from analytics_defs.core.offsets import NO_TIMESTAMP, Range, Record, Source
from analytics_defs.core.repair import ComparisonResult
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage import dead_letter_files, event_parquet
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.dead_letter_files import Duplicate
from analytics_defs.core.storage.object_keys import event_json_dir, event_key, manifest_key, metadata_record_timestamp, reused_id_event_key
from analytics_defs.errors import InconsistentState, ResourceNotReady, Superseded, TopicRecreated
from analytics_defs.flows.hours.manifest import is_manifest_of
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.ingest.read_batch import require_same_topics
from analytics_defs.flows.ingest.reread_batch import read_batch_dead_letters
from analytics_defs.flows.stored.hour_completeness import is_complete
from analytics_defs.flows.stored.hour_files import MAX_HOUR_READS, ConcurrentCompaction, download
from analytics_defs.flows.stored.rows_from_json import ACCEPT_ALL_RULES
from analytics_defs.ports import Ports, StoredObject

READ_CHUNK_OBJECTS = 500
"""Objects in memory at once."""
MAX_CACHED_HOURS = 2
"""Downloaded archives on the local disk at once."""


@dataclass(frozen=True, slots=True)
class RereadRecords:
    """The records of a batch, read again."""

    records: Mapping[Source, ClassifiedRecord]
    missing: tuple[Range, ...]
    """Offsets that held a record when the batch was closed, and hold none now."""


def reread_from_kafka(record: BatchRecord, ports: Ports, rules: ValidationRules) -> RereadRecords:
    """Return the batch's records, classified by the rules that the batch recorded, else by `rules`.

    The records of a redrive come from the dead-letter files that it processed.
    """
    batch = record.batch
    rules = batch.rules or rules
    if batch.kind is BatchKind.REDRIVE:
        try:
            dead_letters = read_batch_dead_letters(batch, ports)
        except InconsistentState:
            return RereadRecords({}, tuple(map(single_offset_range, batch.redriven_sources)))
        return RereadRecords({letter.source: classify(letter, rules, batch.time) for letter in dead_letters}, ())
    records = [kafka_record for range_ in batch.ranges for kafka_record in _read_range(range_, ports)]
    explained = [*(gap.range for gap in record.gaps), *record.lost, *record.unaccounted, *map(single_offset_range, record.tombstones)]
    return RereadRecords(
        {each.source: classify(each, rules, batch.time) for each in records if each.value is not None},
        uncovered_ranges(batch.ranges, [*explained, *(single_offset_range(each.source) for each in records)]),
    )


def _read_range(range_: Range, ports: Ports) -> Sequence[Record]:
    """Return the records that Kafka holds. Empty if the topic was recreated or deleted."""
    snapshot = ports.ledger.snapshot()
    topic = snapshot.topics.get(range_.topic_partition.topic)
    if topic is None or topic.incarnation != range_.topic_partition.incarnation:
        return ()
    try:
        require_same_topics([range_], snapshot, ports)
        records = ports.event_log.read([range_], lambda _: True).records
        require_same_topics([range_], snapshot, ports)
    except (TopicRecreated, ResourceNotReady):
        return ()
    return records


def read_part_rows(data: bytes, record: BatchRecord, hour: str) -> dict[Source, Event]:
    """Return the batch's events in a part. Empty if the part cannot be read."""
    try:
        rows = event_parquet.read_rows(
            data, ("payload", "topic", "partition", "offset", "record_timestamp", "batch_id"), record.parts[hour]
        )
    except InconsistentState:
        return {}
    batch_rows = (row for row in rows if row["batch_id"] == record.batch.id and row["payload"] is not None)
    events = (
        _classify_row(
            Source.parse(f"{row['topic']}/{row['partition']}/{row['offset']}"), row["payload"].encode(), row["record_timestamp"], record
        )
        for row in batch_rows
    )
    return _events_of_batch(events, record, hour)


def _classify_row(source: Source, payload: bytes, timestamp_ms: int | None, record: BatchRecord) -> ClassifiedRecord:
    timestamp_ms = NO_TIMESTAMP if timestamp_ms is None else timestamp_ms
    return classify(Record(source, timestamp_ms, None, payload), ACCEPT_ALL_RULES, record.batch.time)


def _events_of_batch(records: Iterable[ClassifiedRecord], record: BatchRecord, hour: str) -> dict[Source, Event]:
    return {
        event.record.source: event
        for event in records
        if isinstance(event, Event) and event.hour == hour and _is_source_of_batch(event.record.source, record)
    }


def _is_source_of_batch(source: Source, record: BatchRecord) -> bool:
    if record.batch.kind is BatchKind.REDRIVE:
        return source in record.batch.redriven_sources
    return any(range_.contains(source) for range_ in record.batch.ranges)


class HourArchives:
    """Downloaded hour archives, each verified once. Few are kept, because batches come in the order of their time."""

    def __init__(self, ports: Ports, engine_factory: StatisticsEngineFactory) -> None:
        self._ports, self._engine_factory = ports, engine_factory
        self._open: OrderedDict[str, _ArchivedHour] = OrderedDict()

    def __enter__(self) -> HourArchives:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def is_sound(self, revision: ArchiveRevision) -> bool:
        """Return whether the files hold the rows of the revision. Raises ConcurrentCompaction if a newer revision deleted a file."""
        return self._archive(revision).is_sound

    def rows(self, revision: ArchiveRevision, record: BatchRecord) -> dict[Source, Event]:
        """Return the batch's events in the archive. Empty if the archive is damaged. Raises ConcurrentCompaction."""
        archive = self._archive(revision)
        if not archive.is_sound:
            return {}
        events = (
            classify(Record(row.source, row.record_timestamp_ms, None, row.payload), ACCEPT_ALL_RULES, record.batch.time)
            for rows in archive.workspace.read_rows(archive.paths, record.batch.id)
            for row in rows
        )
        return _events_of_batch(events, record, revision.hour)

    def _archive(self, revision: ArchiveRevision) -> _ArchivedHour:
        archive = self._open.pop(revision.hour, None)
        if archive is not None and archive.revision.number != revision.number:
            archive.close()
            archive = None
        archive = archive or _ArchivedHour(revision, self._ports, self._engine_factory)
        self._open[revision.hour] = archive
        if len(self._open) > MAX_CACHED_HOURS:
            self._open.popitem(last=False)[1].close()
        return archive


class _ArchivedHour:
    def __init__(self, revision: ArchiveRevision, ports: Ports, engine_factory: StatisticsEngineFactory) -> None:
        self.revision = revision
        with ExitStack() as stack:
            self.workspace = stack.enter_context(engine_factory())
            paths = download(revision.keys, self.workspace, ports)
            if len(paths) != len(revision.keys):
                _require_latest(revision, ports)
            self.paths = list(paths.values())
            readable = [summary for summary in self.workspace.summarize(self.paths).values() if summary is not None]
            total = merge_summaries(readable)
            self.is_sound = len(readable) == len(revision.keys) and (total.count, total.digest) == (revision.rows, revision.digest)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()


def _require_latest(revision: ArchiveRevision, ports: Ports) -> None:
    latest = ports.ledger.latest_revision(revision.hour)
    if latest and latest.number != revision.number:
        raise ConcurrentCompaction(f"hour {revision.hour}: another executor made revision {latest.number}")


def compare_manifest(revision: ArchiveRevision, ports: Ports) -> ComparisonResult:
    """Compare the manifest of the hour with the revision. Raises ConcurrentCompaction if the revision is not the latest any more."""
    held = ports.object_store.get(manifest_key(revision.hour))
    if is_manifest_of(held, revision):
        return ComparisonResult.IDENTICAL
    _require_latest(revision, ports)
    return ComparisonResult.MISSING if held is None else ComparisonResult.DIFFERENT


def repair_manifest(hour: str, ports: Ports) -> None:
    """Write the manifest of the latest revision, unless it is there. Its readers then look for no part that the archive contains.

    A manifest never names files that the ledger does not know. One that does is invalid and is rewritten. Raises Superseded if the
    manifest changes before each write.
    """
    key = manifest_key(hour)
    for _ in range(MAX_HOUR_READS):
        held, revision = ports.object_store.get(key), ports.ledger.latest_revision(hour)
        if revision is None or is_manifest_of(held, revision):
            return
        object_ = StoredObject(key, manifest_bytes(revision, is_complete(hour, ports)), JSON_CONTENT_TYPE, {})
        if ports.object_store.put_if(object_, partial(operator.eq, held)):
            return
    raise Superseded(f"{key} was written {MAX_HOUR_READS} times while it was compared. Try again.")


def read_event_json_rows(record: BatchRecord, hour: str, ports: Ports) -> dict[Source, Event]:
    """Return the batch's events in the JSON objects of an hour. Reads every object of the hour."""
    events: dict[Source, Event] = {}
    keys = ports.object_store.list_keys(event_json_dir(hour))
    while chunk := list(islice(keys, READ_CHUNK_OBJECTS)):
        objects = ports.task_pool.run_all([partial(ports.object_store.get_object, key) for key in chunk])
        events |= _events_of_batch(_classified_objects(objects, record), record, hour)
    return events


def _classified_objects(objects: Sequence[StoredObject | None], record: BatchRecord) -> Iterator[ClassifiedRecord]:
    """Yield the events of the objects that name this batch and lie at one of the keys of their event."""
    for object_ in objects:
        if object_ is not None and object_.metadata.get("batch") == record.batch.id:
            try:
                source = Source.parse(object_.metadata.get("source", ""))
            except ValueError:
                continue
            timestamp_ms = metadata_record_timestamp(object_.metadata)
            event = classify(Record(source, timestamp_ms, None, object_.body), ACCEPT_ALL_RULES, record.batch.time)
            if isinstance(event, Event) and object_.key in (
                event_key(event.hour, event.id),
                reused_id_event_key(event.hour, event.id, source),
            ):
                yield event


def read_duplicates(record: BatchRecord, ports: Ports) -> list[Duplicate] | None:
    """Return the lines of the batch's duplicates file. None if the file does not have the recorded SHA-256."""
    if record.duplicates_key is None:
        return []
    data = ports.object_store.get(record.duplicates_key)
    if data is None or sha256_hex(data) != record.duplicates_digest:
        return None
    return dead_letter_files.parse_duplicates(data, record.duplicates_key)
