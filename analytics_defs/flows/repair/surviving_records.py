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

from analytics_defs.core.events.event import Event, Rules, Verdict, judge
from analytics_defs.core.hours.revision import Revision, marked, marker, together
from analytics_defs.core.ingest.batch_builder import holes, one
from analytics_defs.core.ledger import BatchKind, BatchRecord
from analytics_defs.core.offsets import Range, Record, Source
from analytics_defs.core.repair import State, usable
from analytics_defs.core.storage import dead_letter_files, event_parquet
from analytics_defs.core.storage.dead_letter_files import Repeat
from analytics_defs.core.storage.object_keys import event_dir, event_key, later_event_key, metadata_record_timestamp, success_key
from analytics_defs.core.storage.staging_file import microseconds
from analytics_defs.errors import Contradiction, Missing, TakenOver, TopicRecreated
from analytics_defs.flows.hours.statistics import CalculatorBench
from analytics_defs.flows.ingest.read_batch import same_topics
from analytics_defs.flows.ingest.reread_batch import letters_of
from analytics_defs.flows.stored.hour_completeness import has_passed
from analytics_defs.flows.stored.hour_files import READINGS, Moved, bring
from analytics_defs.flows.stored.rows_from_json import ANY
from analytics_defs.ports import Blob, Ports

CHUNK = 500
"""Objects in memory at once."""
HOURS_HERE = 2
"""Archives on the local disk at once."""


@dataclass(frozen=True, slots=True)
class FromKafka:
    verdicts: Mapping[Source, Verdict]
    missing: tuple[Range, ...]
    """Offsets that held a record when the batch was closed, and hold none now."""


def from_kafka(record: BatchRecord, ports: Ports, rules: Rules) -> FromKafka:
    """The batch's records, judged as they were then. Of a redrive: from the dead letters it put through."""
    batch = record.batch
    by = batch.rules or rules
    if batch.kind is BatchKind.REDRIVE:
        try:
            found = letters_of(batch, ports)
        except Contradiction:
            return FromKafka({}, tuple(map(one, batch.redrives)))
        return FromKafka({each.source: judge(each, by, batch.time) for each in found}, ())
    found = [each for some in batch.ranges for each in _records(some, ports)]
    covered = [*(gap.range for gap in record.gaps), *record.lost, *record.unaccounted, *map(one, record.tombstones)]
    return FromKafka(
        {each.source: judge(each, by, batch.time) for each in found if each.value is not None},
        holes(batch.ranges, [*covered, *(one(each.source) for each in found)]),
    )


def _records(wanted: Range, ports: Ports) -> Sequence[Record]:
    """None where the topic is another one by now, or is gone."""
    snapshot = ports.ledger.snapshot()
    topic = snapshot.topics.get(wanted.topic_partition.topic)
    if topic is None or topic.generation != wanted.topic_partition.generation:
        return ()
    try:
        same_topics([wanted], snapshot, ports)
        found = ports.log.read([wanted], lambda _: True).records
        same_topics([wanted], snapshot, ports)
    except (TopicRecreated, Missing):
        return ()
    return found


def rows_of_part(data: bytes, record: BatchRecord, hour: str) -> dict[Source, Event]:
    """Events in a part, as far as they are this batch's. Nothing where it cannot be read."""
    try:
        rows = event_parquet.rows(data, ("payload", "topic", "partition", "offset", "record_timestamp", "batch_id"), record.parts[hour])
    except Contradiction:
        return {}
    mine = (row for row in rows if row["batch_id"] == record.batch.id and row["payload"] is not None)
    events = (
        _event(Source.parse(f"{row['topic']}/{row['partition']}/{row['offset']}"), row["payload"].encode(), row["record_timestamp"], record)
        for row in mine
    )
    return _inside(events, record, hour)


def _event(source: Source, payload: bytes, time: datetime | None, record: BatchRecord) -> Verdict:
    return judge(Record(source, -1 if time is None else microseconds(time) // 1000, None, payload), ANY, record.batch.time)


def _inside(events: Iterable[Verdict], record: BatchRecord, hour: str) -> dict[Source, Event]:
    return {
        each.record.source: each for each in events if isinstance(each, Event) and each.hour == hour and belongs(each.record.source, record)
    }


def belongs(source: Source, record: BatchRecord) -> bool:
    if record.batch.kind is BatchKind.REDRIVE:
        return source in record.batch.redrives
    return any(each.holds(source) for each in record.batch.ranges)


class Archives:
    """Compacted hours of a replay, each brought here and proven once. Only a few are kept: batches come in the order of their time."""

    def __init__(self, ports: Ports, bench: CalculatorBench) -> None:
        self._ports, self._bench = ports, bench
        self._open: OrderedDict[str, _ArchivedHour] = OrderedDict()

    def __enter__(self) -> Archives:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def is_sound(self, revision: Revision) -> bool:
        """Whether its files hold what the ledger says. Raises Moved where a file is gone because somebody compacts."""
        return self._of(revision).is_sound

    def rows(self, revision: Revision, record: BatchRecord) -> dict[Source, Event]:
        """The batch's events in the hour, if the archive is sound. Raises Moved as above."""
        hour = self._of(revision)
        if not hour.is_sound:
            return {}
        events = (
            judge(Record(row.source, row.record_timestamp_ms, None, row.payload), ANY, record.batch.time)
            for rows in hour.table.rows(hour.paths, record.batch.id)
            for row in rows
        )
        return _inside(events, record, revision.hour)

    def _of(self, revision: Revision) -> _ArchivedHour:
        found = self._open.pop(revision.hour, None)
        if found is not None and found.revision.number != revision.number:
            found.close()
            found = None
        found = found or _ArchivedHour(revision, self._ports, self._bench)
        self._open[revision.hour] = found
        if len(self._open) > HOURS_HERE:
            self._open.popitem(last=False)[1].close()
        return found


class _ArchivedHour:
    def __init__(self, revision: Revision, ports: Ports, bench: CalculatorBench) -> None:
        self.revision = revision
        with ExitStack() as stack:
            self.table = stack.enter_context(bench())
            paths = bring(revision.keys, self.table, ports)
            now = ports.ledger.revision(revision.hour)
            if len(paths) != len(revision.keys) and now and now.number != revision.number:
                raise Moved(f"hour {revision.hour}: another executor made revision {now.number}")
            self.paths = list(paths.values())
            seen = [rows for rows in self.table.look(self.paths).values() if rows is not None]
            found = together(seen)
            self.is_sound = len(seen) == len(revision.keys) and (found.count, found.digest) == (revision.rows, revision.digest)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()


def marker_state(revision: Revision, ports: Ports) -> State:
    """Of `_SUCCESS.json`. Raises Moved where somebody has compacted the hour since."""
    held = ports.archive.get(success_key(revision.hour))
    if not _is_to_be_marked(held, revision):
        return State.IDENTICAL
    now = ports.ledger.revision(revision.hour)
    if now and now.number != revision.number:
        raise Moved(f"hour {revision.hour}: another executor made revision {now.number}")
    return State.MISSING if held is None else State.DIFFERENT


def mark_again(hour: str, ports: Ports) -> None:
    """Afterwards the marker names the newest revision, or a later one: none of its readers looks for a part that is in any more.

    Whatever a marker names is in the ledger when it is read: what names more than that is no marker. Raises TakenOver where somebody
    writes another one each time.
    """
    key = success_key(hour)
    for _ in range(READINGS):
        seen, revision = ports.archive.get(key), ports.ledger.revision(hour)
        if revision is None or not _is_to_be_marked(seen, revision):
            return
        blob = Blob(key, marker(revision, has_passed(hour, ports)), "application/json", {})
        if ports.archive.advance(blob, partial(operator.eq, seen)):
            return
    raise TakenOver(f"{key} was written {READINGS} times while it was looked at. Try again.")


def _is_to_be_marked(held: bytes | None, revision: Revision) -> bool:
    try:
        return held is None or held != marker(revision, marked(held, success_key(revision.hour)).complete)
    except Contradiction:
        return True


def rows_of_tree(record: BatchRecord, hour: str, ports: Ports) -> dict[Source, Event]:
    """The batch's events in the JSON tree of an hour, which is read whole: where Kafka and Parquet do not have them."""
    found: dict[Source, Event] = {}
    keys = ports.archive.keys(event_dir(hour))
    while some := list(islice(keys, CHUNK)):
        blobs = ports.workers.run([partial(ports.archive.fetch, key) for key in some])
        found |= _inside(_judged_blobs(blobs, record), record, hour)
    return found


def _judged_blobs(blobs: Sequence[Blob | None], record: BatchRecord) -> Iterator[Verdict]:
    for blob in blobs:
        if blob is not None and blob.metadata.get("batch") == record.batch.id:
            try:
                source = Source.parse(blob.metadata.get("source", ""))
            except ValueError:
                continue
            time = metadata_record_timestamp(blob.metadata)
            verdict = judge(Record(source, time, None, blob.body), ANY, record.batch.time)
            if isinstance(verdict, Event) and blob.key in (
                event_key(verdict.hour, verdict.id),
                later_event_key(verdict.hour, verdict.id, source),
            ):
                yield verdict


def repeats_in(data: bytes | None, record: BatchRecord) -> list[Repeat] | None:
    """The lines of the batch's file of repeats; None where they cannot be those it wrote."""
    if record.repeats_key is None:
        return []
    try:
        lines = dead_letter_files.parse_repeats(data or b"", record.repeats_key)
    except Contradiction:
        return None
    return lines if usable(lines, record) else None
