"""Outcomes by the files of a batch: dead letters, duplicates, and Parquet rows."""

from __future__ import annotations

from collections.abc import Sequence

from analytics_defs.core.ledger import BatchKind, BatchRecord
from analytics_defs.core.offsets import Record, Source
from analytics_defs.core.storage import dead_letter_files, event_parquet
from analytics_defs.core.storage.object_keys import event_key, hour_of_key, metadata_record_timestamp, reused_id_event_key
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.stored.expired_data import expired_dead_letters_of
from analytics_defs.flows.trace.expired_files import expired_data_of, expired_outcomes, outcome_by_counts
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.ports import Ports, StoredObject


def dead_letter_outcome(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    """Return the outcome of a dead letter, with its redrive.

    If the file is not as its batch wrote it, only a redrive in the ledger proves that the source was a dead letter.
    """
    letters, error = _read_dead_letters(record, ports)
    letter = next((letter for letter in letters if letter.record.source == source), None)
    if letter is None and not error:
        return None
    redrive_id = ports.ledger.redriven_by([source]).get(source)
    if letter is None and redrive_id is None:
        return None
    redrive_record = ports.ledger.batch_record(redrive_id) if redrive_id else None
    redrive = _redrive_outcome(source, redrive_record, ports) if redrive_record else None
    detail = f"{letter.reason}: {letter.detail}" if letter else f"it was redriven; {error}"
    return Trace(source, RecordOutcome.DEAD_LETTER, record.batch.id, detail=detail, redrive=redrive)


def _redrive_outcome(source: Source, record: BatchRecord, ports: Ports) -> Trace | None:
    trace = duplicate_outcome(source, record, ports) or stored_outcome(source, record, ports)
    if trace is None and (expired := expired_outcomes(record, ports)):
        return outcome_by_counts(source, record, expired)
    return trace


def _read_dead_letters(record: BatchRecord, ports: Ports) -> tuple[Sequence[dead_letter_files.DeadLetter], str]:
    """Return the batch's dead letters. If its file is not as it was written: none, and the reason."""
    if record.dead_letters_key is None:
        return (), ""
    try:
        data = ports.object_store.get(record.dead_letters_key)
        if data is None and (expiry := expired_dead_letters_of(record, ports)):
            return (), f"its dead letters were removed by retention on {expiry.expired_at:%Y-%m-%dT%H:%MZ}"
        return dead_letter_files.read_dead_letters(record, data), ""
    except InconsistentState as error:
        return (), str(error)


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
        searched: tuple[str, ...] = ()
        while (keys := _parquet_keys(record, hour, ports)) != searched:  # search again if a compaction moved the rows meanwhile
            for key in keys:
                data = ports.object_store.get(key)
                event_id = event_parquet.event_id_at(data, source, key) if data is not None else None
                if event_id is not None:
                    return _stored_trace(source, record, event_id, key, ports)
            searched = keys
    return None


def _parquet_keys(record: BatchRecord, hour: str, ports: Ports) -> tuple[str, ...]:
    """Return the keys that hold the batch's rows of the hour: its part, or the archive once that contains the batch."""
    revision = ports.ledger.latest_revision(hour)
    return revision.keys if revision and record.batch.id in revision.known_batches else (record.parts[hour],)


def _stored_trace(source: Source, record: BatchRecord, event_id: str, part: str, ports: Ports) -> Trace:
    hour = hour_of_key(part) or ""
    item = ports.recent_events.get_items([event_id]).get(event_id)
    item_state = None
    if item is not None:
        is_expired = item.ttl <= ports.clock.now().timestamp()
        item_state = "expired" if is_expired else "held" if item.source == source else f"held by {item.source}"
    keys = (reused_id_event_key(hour, event_id, source), event_key(hour, event_id))
    object_ = next(filter(None, map(ports.object_store.get_object, keys)), None)
    event_json = object_.key if object_ else None
    detail = f"{'redriven into' if record.batch.kind is BatchKind.REDRIVE else 'stored in'} hour {hour}"
    detail += _invalid_timestamp_note(source, record, object_)
    expired = expired_data_of(hour, ports)
    if event_json is None and expired.event_json_expired_at and expired.has_expired_event_json_of(record.batch.time):
        detail += f"; its JSON object was removed by retention on {expired.event_json_expired_at:%Y-%m-%dT%H:%MZ}"
    return Trace(source, RecordOutcome.STORED, record.batch.id, event_id, detail=detail, part=part, event_json=event_json, item=item_state)


def _invalid_timestamp_note(source: Source, record: BatchRecord, object_: StoredObject | None) -> str:
    """Return the record timestamp if it is no date. Without the event's own JSON object only the number of such events is known."""
    if object_ is None or object_.metadata.get("source") != str(source):
        count = record.invalid_record_timestamps
        return f"; {count} events of its batch have a record timestamp that is no date" if count else ""
    timestamp_ms = metadata_record_timestamp(object_.metadata)
    if not Record(source, timestamp_ms, None, None).has_invalid_timestamp:
        return ""
    return f"; its record timestamp {timestamp_ms} is no date: it is null in Parquet, and in the metadata of its JSON object"


def unknown_outcome(source: Source, record: BatchRecord, ports: Ports) -> Trace:
    """Return the outcome of a record that no file names: expired, or unaccounted if no expiry explains it."""
    letters, error = _read_dead_letters(record, ports)
    expired = expired_outcomes(record, ports)
    if expired and (letters or not error or RecordOutcome.DEAD_LETTER in expired):
        return outcome_by_counts(source, record, expired)
    detail = f"batch {record.batch.id} counts it, but none of its files names it: they were removed or altered"
    return Trace(source, RecordOutcome.UNACCOUNTED, record.batch.id, detail=f"{detail}. {error}" if error else detail)
