"""The evidence in the stores: which of its batch's files names a source, and as what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analytics_defs.core.ledger import BatchKind, BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage import dead_letter_files, event_parquet
from analytics_defs.core.storage.object_keys import event_key, hour_of_key, reused_id_event_key
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.stored.expired_data import expired_dead_letters_of
from analytics_defs.flows.trace.expired_files import counted_outcome, expired_data_of, outcome_after_expiry
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.ports import Ports


def dead_letter_outcome(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    """By the file as its batch wrote it. Where that was altered, the ledger's mark alone says that the source was a dead letter."""
    lines, altered = _letters(record, ports)
    letter = next((each for each in lines if each.record.source == source), None)
    if letter is None and not altered:
        return None
    redriven_by = ports.ledger.redriven_by([source]).get(source)
    if letter is None and redriven_by is None:
        return None
    again = ports.ledger.batch_record(redriven_by) if redriven_by else None
    redrive = (duplicate_outcome(source, again, ports) or stored_outcome(source, again, ports)) if again else None
    if again and redrive is None and (gone := outcome_after_expiry(again, ports)):
        redrive = counted_outcome(source, again, gone)
    detail = f"{letter.reason}: {letter.detail}" if letter else f"it was put through again; {altered}"
    return Trace(source, RecordOutcome.DEAD_LETTER, record.batch.id, detail=detail, redrive=redrive)


def _letters(record: BatchRecord, ports: Ports) -> tuple[Sequence[dead_letter_files.DeadLetter], str]:
    """The batch's dead letters; none, and why, where its file is not the one that it wrote."""
    if record.dead_letters_key is None:
        return (), ""
    try:
        data = ports.object_store.get(record.dead_letters_key)
        if data is None and (taken := expired_dead_letters_of(record, ports)):
            return (), f"its dead letters were removed by retention on {taken.expired_at:%Y-%m-%dT%H:%MZ}"
        return dead_letter_files.read_dead_letters(record, data), ""
    except InconsistentState as fault:
        return (), str(fault)


def duplicate_outcome(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    if record.duplicates_key is None:
        return None
    for line in dead_letter_files.parse_duplicates(ports.object_store.get(record.duplicates_key) or b"", record.duplicates_key):
        if line.source == source:
            detail = f"its id is held by {line.original_source}"
            return Trace(source, RecordOutcome.DUPLICATE, record.batch.id, line.event_id, detail, line.original_source)
    return None


def stored_outcome(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    for hour in record.parts:
        looked: tuple[str, ...] = ()
        while (files := _files_of(record, hour, ports)) != looked:  # once more where a compaction moved the rows meanwhile
            for key in files:
                data = ports.object_store.get(key)
                event_id = event_parquet.event_id_at(data, source, key) if data is not None else None
                if event_id is not None:
                    return _stored_as(source, record, event_id, key, ports)
            looked = files
    return None


def _files_of(record: BatchRecord, hour: str, ports: Ports) -> tuple[str, ...]:
    """Where the batch's rows of the hour are: in its part, or in the hour's archive once that holds the batch."""
    revision = ports.ledger.latest_revision(hour)
    return revision.keys if revision and record.batch.id in revision.known_batches else (record.parts[hour],)


def _stored_as(source: Source, record: BatchRecord, event_id: str, part: str, ports: Ports) -> Trace:
    hour = hour_of_key(part) or ""
    item = ports.recent_events.get_items([event_id]).get(event_id)
    keys = (reused_id_event_key(hour, event_id, source), event_key(hour, event_id))
    said = None
    if item is not None:
        said = "expired" if item.ttl <= ports.clock.now().timestamp() else "held" if item.source == source else f"held by {item.source}"
    how = "redriven into" if record.batch.kind is BatchKind.REDRIVE else "stored in"
    there, taken = _there(keys, ports), expired_data_of(hour, ports)
    gone = ""
    if not there and taken.event_json_expired_at and taken.has_expired_event_json_of(record.batch.time):
        gone = f"; its JSON object was removed by retention on {taken.event_json_expired_at:%Y-%m-%dT%H:%MZ}"
    return Trace(
        source,
        RecordOutcome.STORED,
        record.batch.id,
        event_id,
        detail=f"{how} hour {hour}{gone}",
        part=part,
        event_json=next(iter(there), None),
        item=said,
    )


def _there(keys: Iterable[str], ports: Ports) -> list[str]:
    return [key for key in keys if ports.object_store.get(key) is not None]


def unknown_outcome(source: Source, record: BatchRecord, ports: Ports) -> Trace:
    lines, altered = _letters(record, ports)
    if (gone := outcome_after_expiry(record, ports)) and (lines or not altered or RecordOutcome.DEAD_LETTER in gone):
        return counted_outcome(source, record, gone)
    detail = f"batch {record.batch.id} counts it, but none of its files names it: they were removed or altered"
    return Trace(source, RecordOutcome.UNACCOUNTED, record.batch.id, detail=f"{detail}. {altered}" if altered else detail)
