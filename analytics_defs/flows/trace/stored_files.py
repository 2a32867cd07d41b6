"""The evidence in the stores: which of its batch's files names a source, and as what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analytics_defs.core.ledger import BatchKind, BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage import dead_letter_files, event_parquet
from analytics_defs.core.storage.object_keys import event_key, hour_of_path, later_event_key
from analytics_defs.errors import Contradiction
from analytics_defs.flows.stored.expired_data import letters_taken_of
from analytics_defs.flows.trace.expired_files import as_counted, removed, taken_of
from analytics_defs.flows.trace.outcome import Fate, Trace
from analytics_defs.ports import Ports


def rejected(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    """By the file as its batch wrote it. Where that was altered, the ledger's mark alone says that the source was a dead letter."""
    lines, altered = _letters(record, ports)
    letter = next((each for each in lines if each.record.source == source), None)
    if letter is None and not altered:
        return None
    redriven_by = ports.ledger.redriven([source]).get(source)
    if letter is None and redriven_by is None:
        return None
    again = ports.ledger.record(redriven_by) if redriven_by else None
    redrive = (repeated(source, again, ports) or stored(source, again, ports)) if again else None
    if again and redrive is None and (gone := removed(again, ports)):
        redrive = as_counted(source, again, gone)
    detail = f"{letter.reason}: {letter.detail}" if letter else f"it was put through again; {altered}"
    return Trace(source, Fate.DEAD_LETTER, record.batch.id, detail=detail, redrive=redrive)


def _letters(record: BatchRecord, ports: Ports) -> tuple[Sequence[dead_letter_files.DeadLetter], str]:
    """The batch's dead letters; none, and why, where its file is not the one that it wrote."""
    if record.dead_letters_key is None:
        return (), ""
    try:
        data = ports.archive.get(record.dead_letters_key)
        if data is None and (taken := letters_taken_of(record, ports)):
            return (), f"its dead letters were removed by retention on {taken.at:%Y-%m-%dT%H:%MZ}"
        return dead_letter_files.kept_letters(record, data), ""
    except Contradiction as fault:
        return (), str(fault)


def repeated(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    if record.repeats_key is None:
        return None
    for line in dead_letter_files.parse_repeats(ports.archive.get(record.repeats_key) or b"", record.repeats_key):
        if line.source == source:
            detail = f"its id is held by {line.held_by}"
            return Trace(source, Fate.REPEAT, record.batch.id, line.event_id, detail, line.held_by)
    return None


def stored(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    for hour in record.parts:
        looked: tuple[str, ...] = ()
        while (files := _files_of(record, hour, ports)) != looked:  # once more where a compaction moved the rows meanwhile
            for key in files:
                data = ports.archive.get(key)
                event_id = event_parquet.event_id_at(data, source, key) if data is not None else None
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
    there, taken = _there(keys, ports), taken_of(hour, ports)
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


def no_trace(source: Source, record: BatchRecord, ports: Ports) -> Trace:
    lines, altered = _letters(record, ports)
    if (gone := removed(record, ports)) and (lines or not altered or Fate.DEAD_LETTER in gone):
        return as_counted(source, record, gone)
    detail = f"batch {record.batch.id} counts it, but none of its files names it: they were removed or altered"
    return Trace(source, Fate.UNACCOUNTED, record.batch.id, detail=f"{detail}. {altered}" if altered else detail)
