"""What is left of a closed batch: in Kafka, in Parquet, in the JSON tree, in its own files."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice

from analytics_defs.core.events.event import ClassifiedRecord, Event, ValidationRules, classify
from analytics_defs.core.hours.manifest import manifest_bytes, parse_manifest
from analytics_defs.core.hours.revision import ArchiveRevision, merge_summaries
from analytics_defs.core.ingest.batch_builder import single_offset_range, uncovered_ranges
from analytics_defs.core.ledger import BatchKind, BatchRecord
from analytics_defs.core.offsets import Range, Record, Source
from analytics_defs.core.repair import ComparisonResult, matches_batch
from analytics_defs.core.storage import dead_letter_files, event_parquet
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.dead_letter_files import Duplicate
from analytics_defs.core.storage.object_keys import event_json_dir, event_key, manifest_key, metadata_record_timestamp, reused_id_event_key
from analytics_defs.core.storage.staging_file import microseconds
from analytics_defs.errors import InconsistentState, ResourceMissing, Superseded, TopicRecreated
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
"""Archives on the local disk at once."""


@dataclass(frozen=True, slots=True)
class RereadRecords:
    records: Mapping[Source, ClassifiedRecord]
    missing: tuple[Range, ...]
    """Offsets that held a record when the batch was closed, and hold none now."""


def reread_from_kafka(record: BatchRecord, ports: Ports, rules: ValidationRules) -> RereadRecords:
    """The batch's records, judged as they were then. Of a redrive: from the dead letters it put through."""
    batch = record.batch
    by = batch.rules or rules
    if batch.kind is BatchKind.REDRIVE:
        try:
            found = read_batch_dead_letters(batch, ports)
        except InconsistentState:
            return RereadRecords({}, tuple(map(single_offset_range, batch.redriven_sources)))
        return RereadRecords({each.source: classify(each, by, batch.time) for each in found}, ())
    found = [each for some in batch.ranges for each in _records(some, ports)]
    covered = [*(gap.range for gap in record.gaps), *record.lost, *record.unaccounted, *map(single_offset_range, record.tombstones)]
    return RereadRecords(
        {each.source: classify(each, by, batch.time) for each in found if each.value is not None},
        uncovered_ranges(batch.ranges, [*covered, *(single_offset_range(each.source) for each in found)]),
    )


def _records(wanted: Range, ports: Ports) -> Sequence[Record]:
    """None where the topic is another one by now, or is gone."""
    snapshot = ports.ledger.snapshot()
    topic = snapshot.topics.get(wanted.topic_partition.topic)
    if topic is None or topic.incarnation != wanted.topic_partition.incarnation:
        return ()
    try:
        require_same_topics([wanted], snapshot, ports)
        found = ports.event_log.read([wanted], lambda _: True).records
        require_same_topics([wanted], snapshot, ports)
    except (TopicRecreated, ResourceMissing):
        return ()
    return found


def read_part_rows(data: bytes, record: BatchRecord, hour: str) -> dict[Source, Event]:
    """Events in a part, as far as they are this batch's. Nothing where it cannot be read."""
    try:
        rows = event_parquet.read_rows(
            data, ("payload", "topic", "partition", "offset", "record_timestamp", "batch_id"), record.parts[hour]
        )
    except InconsistentState:
        return {}
    mine = (row for row in rows if row["batch_id"] == record.batch.id and row["payload"] is not None)
    events = (
        _event(Source.parse(f"{row['topic']}/{row['partition']}/{row['offset']}"), row["payload"].encode(), row["record_timestamp"], record)
        for row in mine
    )
    return _inside(events, record, hour)


def _event(source: Source, payload: bytes, time: datetime | None, record: BatchRecord) -> ClassifiedRecord:
    return classify(Record(source, -1 if time is None else microseconds(time) // 1000, None, payload), ACCEPT_ALL_RULES, record.batch.time)


def _inside(events: Iterable[ClassifiedRecord], record: BatchRecord, hour: str) -> dict[Source, Event]:
    return {
        each.record.source: each
        for each in events
        if isinstance(each, Event) and each.hour == hour and is_source_of_batch(each.record.source, record)
    }


def is_source_of_batch(source: Source, record: BatchRecord) -> bool:
    if record.batch.kind is BatchKind.REDRIVE:
        return source in record.batch.redriven_sources
    return any(each.holds(source) for each in record.batch.ranges)


class HourArchives:
    """Compacted hours of a replay, each brought here and proven once. Only a few are kept: batches come in the order of their time."""

    def __init__(self, ports: Ports, bench: StatisticsEngineFactory) -> None:
        self._ports, self._bench = ports, bench
        self._open: OrderedDict[str, _ArchivedHour] = OrderedDict()

    def __enter__(self) -> HourArchives:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def is_sound(self, revision: ArchiveRevision) -> bool:
        """Whether its files hold what the ledger says. Raises Moved where a file is gone because somebody compacts."""
        return self._of(revision).is_sound

    def rows(self, revision: ArchiveRevision, record: BatchRecord) -> dict[Source, Event]:
        """The batch's events in the hour, if the archive is sound. Raises Moved as above."""
        hour = self._of(revision)
        if not hour.is_sound:
            return {}
        events = (
            classify(Record(row.source, row.record_timestamp_ms, None, row.payload), ACCEPT_ALL_RULES, record.batch.time)
            for rows in hour.table.read_rows(hour.paths, record.batch.id)
            for row in rows
        )
        return _inside(events, record, revision.hour)

    def _of(self, revision: ArchiveRevision) -> _ArchivedHour:
        found = self._open.pop(revision.hour, None)
        if found is not None and found.revision.number != revision.number:
            found.close()
            found = None
        found = found or _ArchivedHour(revision, self._ports, self._bench)
        self._open[revision.hour] = found
        if len(self._open) > MAX_CACHED_HOURS:
            self._open.popitem(last=False)[1].close()
        return found


class _ArchivedHour:
    def __init__(self, revision: ArchiveRevision, ports: Ports, bench: StatisticsEngineFactory) -> None:
        self.revision = revision
        with ExitStack() as stack:
            self.table = stack.enter_context(bench())
            paths = download(revision.keys, self.table, ports)
            now = ports.ledger.latest_revision(revision.hour)
            if len(paths) != len(revision.keys) and now and now.number != revision.number:
                raise ConcurrentCompaction(f"hour {revision.hour}: another executor made revision {now.number}")
            self.paths = list(paths.values())
            seen = [rows for rows in self.table.summarize(self.paths).values() if rows is not None]
            found = merge_summaries(seen)
            self.is_sound = len(seen) == len(revision.keys) and (found.count, found.digest) == (revision.rows, revision.digest)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()


def compare_manifest(revision: ArchiveRevision, ports: Ports) -> ComparisonResult:
    """Of `_SUCCESS.json`. Raises Moved where somebody has compacted the hour since."""
    held = ports.object_store.get(manifest_key(revision.hour))
    if not _is_to_be_marked(held, revision):
        return ComparisonResult.IDENTICAL
    now = ports.ledger.latest_revision(revision.hour)
    if now and now.number != revision.number:
        raise ConcurrentCompaction(f"hour {revision.hour}: another executor made revision {now.number}")
    return ComparisonResult.MISSING if held is None else ComparisonResult.DIFFERENT


def repair_manifest(hour: str, ports: Ports) -> None:
    """Afterwards the marker names the newest revision, or a later one: none of its readers looks for a part that is in any more.

    Whatever a marker names is in the ledger when it is read: what names more than that is no marker. Raises Superseded where somebody
    writes another one each time.
    """
    key = manifest_key(hour)
    for _ in range(MAX_HOUR_READS):
        seen, revision = ports.object_store.get(key), ports.ledger.latest_revision(hour)
        if revision is None or not _is_to_be_marked(seen, revision):
            return
        blob = StoredObject(key, manifest_bytes(revision, is_complete(hour, ports)), JSON_CONTENT_TYPE, {})
        if ports.object_store.put_if(blob, partial(operator.eq, seen)):
            return
    raise Superseded(f"{key} was written {MAX_HOUR_READS} times while it was looked at. Try again.")


def _is_to_be_marked(held: bytes | None, revision: ArchiveRevision) -> bool:
    try:
        return held is None or held != manifest_bytes(revision, parse_manifest(held, manifest_key(revision.hour)).complete)
    except InconsistentState:
        return True


def read_event_json_rows(record: BatchRecord, hour: str, ports: Ports) -> dict[Source, Event]:
    """The batch's events in the JSON tree of an hour, which is read whole: where Kafka and Parquet do not have them."""
    found: dict[Source, Event] = {}
    keys = ports.object_store.list_keys(event_json_dir(hour))
    while some := list(islice(keys, READ_CHUNK_OBJECTS)):
        blobs = ports.task_pool.run_all([partial(ports.object_store.get_object, key) for key in some])
        found |= _inside(_judged_blobs(blobs, record), record, hour)
    return found


def _judged_blobs(blobs: Sequence[StoredObject | None], record: BatchRecord) -> Iterator[ClassifiedRecord]:
    for blob in blobs:
        if blob is not None and blob.metadata.get("batch") == record.batch.id:
            try:
                source = Source.parse(blob.metadata.get("source", ""))
            except ValueError:
                continue
            time = metadata_record_timestamp(blob.metadata)
            verdict = classify(Record(source, time, None, blob.body), ACCEPT_ALL_RULES, record.batch.time)
            if isinstance(verdict, Event) and blob.key in (
                event_key(verdict.hour, verdict.id),
                reused_id_event_key(verdict.hour, verdict.id, source),
            ):
                yield verdict


def read_duplicates(data: bytes | None, record: BatchRecord) -> list[Duplicate] | None:
    """The lines of the batch's file of repeats; None where they cannot be those it wrote."""
    if record.duplicates_key is None:
        return []
    try:
        lines = dead_letter_files.parse_duplicates(data or b"", record.duplicates_key)
    except InconsistentState:
        return None
    return lines if matches_batch(lines, record) else None
