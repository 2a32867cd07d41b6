"""Where did my event go? An answer for every source and for every id that is still known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from analytics_defs.core import letters, tables
from analytics_defs.core.hours import Taken
from analytics_defs.core.layout import event_key, hour_of_path, later_event_key
from analytics_defs.core.ledger import BatchKind, BatchRecord, Snapshot, Tally
from analytics_defs.core.offsets import Range, Source
from analytics_defs.errors import AnalyticsError, Contradiction, NotFound
from analytics_defs.flows.taken import letters_taken_of
from analytics_defs.ports import Ports

READINGS = 10


class Fate(StrEnum):
    STORED = "stored"
    REPEAT = "repeat"
    DEAD_LETTER = "dead_letter"
    TOMBSTONE = "tombstone"
    GAP = "gap"
    LOST = "lost"
    UNACCOUNTED = "unaccounted"
    TAKEN = "taken"
    """Its batch counts it, and retention removed the files that tell as what."""
    PENDING = "pending"
    """In a batch that was taken and is not closed yet."""
    NOT_READ = "not_read"
    """At or beyond the next offset to read."""
    BEFORE_START = "before_start"
    """Before the offset where the ledger's account of the partition begins."""
    UNKNOWN_PARTITION = "unknown_partition"
    """The ledger has no account of this topic-partition."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Coordinates and reasons, never payloads."""

    source: Source
    fate: Fate
    batch_id: str | None = None
    event_id: str | None = None
    detail: str = ""
    held_by: Source | None = None
    """Of a repeat: the source that holds its id."""
    part: str | None = None
    """Key of the Parquet file that holds it: its batch's part, or the hour's archive."""
    event_object: str | None = None
    """Key of the JSON object, where it is there."""
    item: str | None = None
    """What RecentEvents says: `held`, `expired`, or `held by <source>`."""
    redrive: Trace | None = None
    """Of a dead letter that was put through again: what became of it then."""
    before: Trace | None = None
    """Where an event was asked for by its id: what its source was before it was put through again."""


def trace(what: str, ports: Ports) -> Trace:
    """By source (`topic/partition/offset`) or by event id. Raises NotFound for an id that RecentEvents does not hold.

    An id may look like a source: it is taken for one where the ledger has no account of that topic-partition. Of a source that was not
    read yet it is said where Kafka's log ends before it, if Kafka answers.
    """
    try:
        source = Source.parse(what)
    except ValueError:
        return trace_event(what, ports)
    told = trace_source(source, ports)
    if told.fate is not Fate.UNKNOWN_PARTITION or not ports.recent.held([what]):
        return told
    return trace_event(what, ports)


def _beyond_the_end(told: Trace, ports: Ports) -> Trace:
    at = told.source.topic_partition
    try:
        high = ports.log.watermarks([at])[at].high
    except AnalyticsError:
        return told
    if told.source.offset < high:
        return told
    return replace(told, detail=f"Kafka's log of {at} ends at {high} and has no such record yet; {told.detail}")


def trace_event(event_id: str, ports: Ports) -> Trace:
    """The event as it is now; where its source was rejected first, that stands below, in `before`."""
    item = ports.recent.held([event_id]).get(event_id)
    if item is None:
        raise NotFound(
            f"event {event_id!r} is not in RecentEvents: it was never stored, or its 30 days are over. "
            "Trace it by its source (topic/partition/offset), or look in the archive's Parquet by event_id."
        )
    told = trace_source(item.source, ports)
    return told if told.redrive is None else replace(told.redrive, before=replace(told, redrive=None))


def trace_source(source: Source, ports: Ports) -> Trace:
    """The ledger's word, and the evidence in the stores."""
    found = ports.ledger.range_at(source)
    if found is None:
        not_closed = _not_closed(source, ports)
        if not_closed is not None:
            return _beyond_the_end(not_closed, ports) if not_closed.fate is Fate.NOT_READ else not_closed
        found = ports.ledger.range_at(source)  # its batch was closed between the two readings
    record = ports.ledger.record(found.batch_id) if found else None
    if record is None:
        return Trace(source, Fate.UNACCOUNTED, detail="its head has passed it, and no batch record holds it")
    plain = _without_file(source, record)
    if plain is not None:
        return plain
    rejected = _rejected(source, record, ports)
    if rejected is not None:
        return rejected
    return _repeated(source, record, ports) or _stored(source, record, ports) or _no_trace(source, record, ports)


def _not_closed(source: Source, ports: Ports) -> Trace | None:
    """None where the head has passed it."""
    snapshot = _snapshot(source, ports)
    if why := snapshot.why_unreadable(source.topic_partition):
        raise Contradiction(why)
    head = snapshot.heads.get(source.topic_partition)
    if head is None:
        return Trace(source, Fate.UNKNOWN_PARTITION, detail="the ledger has no account of this topic-partition")
    if source.offset < head.first:
        return Trace(source, Fate.BEFORE_START, detail=f"the ledger's account of the partition begins at {head.first}")
    pending = snapshot.pending.get(head.pending or "")
    if pending and any(_in(source, each) for each in pending.ranges):
        return Trace(source, Fate.PENDING, pending.id, detail=f"taken by run {pending.run_id} at {pending.time:%Y-%m-%dT%H:%M:%SZ}")
    return Trace(source, Fate.NOT_READ, detail=f"the next offset to read is {head.next}") if source.offset >= head.next else None


def _snapshot(source: Source, ports: Ports) -> Snapshot:
    """Looked at again where a take or a close was seen by half: a head that is pending, without the batch's entry."""
    snapshot = ports.ledger.snapshot()
    for _ in range(READINGS):
        head = snapshot.heads.get(source.topic_partition)
        if head is None or head.pending is None or head.pending in {*snapshot.pending, *snapshot.unreadable}:
            break
        snapshot = ports.ledger.snapshot()
    return snapshot


def _in(source: Source, range: Range) -> bool:
    return source.topic_partition == range.topic_partition and source.offset in range


def _without_file(source: Source, record: BatchRecord) -> Trace | None:
    batch_id = record.batch.id
    for gap in record.gaps:
        if _in(source, gap.range):
            return Trace(source, Fate.GAP, batch_id, detail=str(gap.reason))
    if any(_in(source, each) for each in record.lost):
        return Trace(source, Fate.LOST, batch_id, detail="retention removed it before it was read")
    if source in record.tombstones:
        return Trace(source, Fate.TOMBSTONE, batch_id, detail="null value: counted, nothing stored")
    if any(_in(source, each) for each in record.unaccounted):
        return Trace(source, Fate.UNACCOUNTED, batch_id, detail="no record was seen, and no evidence why")
    return None


def _rejected(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    """By the file as its batch wrote it. Where that was altered, the ledger's mark alone says that the source was a dead letter."""
    lines, altered = _letters(record, ports)
    letter = next((each for each in lines if each.record.source == source), None)
    if letter is None and not altered:
        return None
    redriven_by = ports.ledger.redriven([source]).get(source)
    if letter is None and redriven_by is None:
        return None
    again = ports.ledger.record(redriven_by) if redriven_by else None
    redrive = (_repeated(source, again, ports) or _stored(source, again, ports)) if again else None
    if again and redrive is None and (removed := _removed(again, ports)):
        redrive = _as_counted(source, again, removed)
    detail = f"{letter.reason}: {letter.detail}" if letter else f"it was put through again; {altered}"
    return Trace(source, Fate.DEAD_LETTER, record.batch.id, detail=detail, redrive=redrive)


def _letters(record: BatchRecord, ports: Ports) -> tuple[Sequence[letters.DeadLetter], str]:
    """The batch's dead letters; none, and why, where its file is not the one that it wrote."""
    if record.dead_letters_key is None:
        return (), ""
    try:
        data = ports.archive.get(record.dead_letters_key)
        if data is None and (taken := letters_taken_of(record, ports)):
            return (), f"its dead letters were removed by retention on {taken.at:%Y-%m-%dT%H:%MZ}"
        return letters.kept_letters(record, data), ""
    except Contradiction as fault:
        return (), str(fault)


def _repeated(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    if record.repeats_key is None:
        return None
    for line in letters.parse_repeats(ports.archive.get(record.repeats_key) or b"", record.repeats_key):
        if line.source == source:
            detail = f"its id is held by {line.held_by}"
            return Trace(source, Fate.REPEAT, record.batch.id, line.event_id, detail, line.held_by)
    return None


def _stored(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    for hour in record.parts:
        looked: tuple[str, ...] = ()
        while (files := _files_of(record, hour, ports)) != looked:  # once more where a compaction moved the rows meanwhile
            for key in files:
                data = ports.archive.get(key)
                event_id = tables.event_id_at(data, source, key) if data is not None else None
                if event_id is not None:
                    return _stored_as(source, record, event_id, key, ports)
            looked = files
    return None


def _files_of(record: BatchRecord, hour: str, ports: Ports) -> tuple[str, ...]:
    """Where the batch's rows of the hour are: in its part, or in the hour's archive once that holds the batch."""
    revision = ports.ledger.revision(hour)
    return revision.keys if revision and record.batch.id in revision.known else (record.parts[hour],)


def _stored_as(source: Source, record: BatchRecord, event_id: str, part: str, ports: Ports) -> Trace:
    hour = hour_of_path(part) or ""
    item = ports.recent.held([event_id]).get(event_id)
    keys = (later_event_key(hour, event_id, source), event_key(hour, event_id))
    said = None
    if item is not None:
        said = "expired" if item.ttl <= ports.clock.now().timestamp() else "held" if item.source == source else f"held by {item.source}"
    how = "redriven into" if record.batch.kind is BatchKind.REDRIVE else "stored in"
    there, taken = _there(keys, ports), _taken_of(hour, ports)
    gone = ""
    if not there and taken.objects_at and taken.has_objects_of(record.batch.time):
        gone = f"; its JSON object was removed by retention on {taken.objects_at:%Y-%m-%dT%H:%MZ}"
    return Trace(
        source,
        Fate.STORED,
        record.batch.id,
        event_id,
        detail=f"{how} hour {hour}{gone}",
        part=part,
        event_object=next(iter(there), None),
        item=said,
    )


def _there(keys: Iterable[str], ports: Ports) -> list[str]:
    return [key for key in keys if ports.archive.get(key) is not None]


def _taken_of(hour: str, ports: Ports) -> Taken:
    revision = ports.ledger.revision(hour)
    return revision.taken if revision else Taken()


def _no_trace(source: Source, record: BatchRecord, ports: Ports) -> Trace:
    lines, altered = _letters(record, ports)
    if (removed := _removed(record, ports)) and (lines or not altered or Fate.DEAD_LETTER in removed):
        return _as_counted(source, record, removed)
    detail = f"batch {record.batch.id} counts it, but none of its files names it: they were removed or altered"
    return Trace(source, Fate.UNACCOUNTED, record.batch.id, detail=f"{detail}. {altered}" if altered else detail)


def _removed(record: BatchRecord, ports: Ports) -> dict[Fate, str]:
    """The outcomes whose files retention removed, with what it removed."""
    removed: dict[Fate, str] = {}
    for hour in record.parts:
        if record.batch.id in (taken := _taken_of(hour, ports)).batches:
            removed[Fate.STORED] = f"the rows of hour {hour} are gone: {taken}"
    letters_gone = letters_taken_of(record, ports)
    for fate, key in ((Fate.REPEAT, record.repeats_key), (Fate.DEAD_LETTER, record.dead_letters_key)):
        if letters_gone and key and ports.archive.get(key) is None:
            removed[fate] = f"retention removed {key} on {letters_gone.at:%Y-%m-%dT%H:%MZ}"
    return removed


def _as_counted(source: Source, record: BatchRecord, removed: Mapping[Fate, str]) -> Trace:
    """By the ledger's numbers: as what one of the removed files would name it, where they leave one answer."""
    whole = zip(record.batch.ranges, record.tallies, strict=True)
    tally = next((tally for each, tally in whole if record.batch.kind is BatchKind.REDRIVE or _in(source, each)), Tally())
    counts = {Fate.STORED: tally.stored, Fate.REPEAT: tally.repeats, Fate.DEAD_LETTER: tally.dead_letters}
    may_be = [fate for fate in removed if counts[fate]]
    again = next((Fate.REPEAT if each.outcome == "repeats" else Fate.STORED for each in record.redriven if each.source == source), None)
    fate = again or (may_be[0] if len(may_be) == 1 else Fate.TAKEN)
    detail = "; ".join(removed.values())
    if fate is Fate.TAKEN:
        detail += f". Around it are {' and '.join(f'{counts[each]} {each.value}' for each in may_be)}"
    return Trace(source, fate, record.batch.id, detail=detail)
