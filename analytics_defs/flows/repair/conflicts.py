"""Detection of conflicts about a batch: Kafka, Parquet and JSON objects contradict each other, and no copy can decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from analytics_defs.core.events.event import ClassifiedRecord, Event, classify
from analytics_defs.core.ledger import Batch
from analytics_defs.core.offsets import Record, Source
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.stored.rows_from_json import ACCEPT_ALL_RULES
from analytics_defs.ports import StoredObject


@dataclass(frozen=True, slots=True)
class SurvivingCopies:
    """The surviving copies of one batch, by source."""

    events: Mapping[Source, Event]
    """The copies that a repair writes: from Kafka, else from Parquet, else from the JSON objects."""
    rows: Mapping[Source, Event]
    """Rows in Parquet."""
    bodies: Mapping[Source, StoredObject]
    """JSON objects."""
    records: Mapping[Source, ClassifiedRecord]
    """Records that Kafka still holds."""


def require_no_conflicts(batch: Batch, copies: SurvivingCopies, is_proven: Callable[[str], bool]) -> None:
    """Raise InconsistentState if the copies of an event contradict each other and no third copy decides.

    Conflicts: Kafka holds another event than Parquet. Parquet and JSON object agree on other bytes than Kafka. Parquet and JSON object
    differ, Kafka has lost the record, and the rows of the hour are not proven. A JSON object that is not this event proves nothing.
    `is_proven(hour)` is true if the digest of an archive revision covers the rows.
    """
    for source, row in copies.rows.items():
        record = copies.records.get(source)
        if record is not None and not (isinstance(record, Event) and (record.id, record.hour) == (row.id, row.hour)):
            in_kafka = f"event {record.id} of hour {record.hour}" if isinstance(record, Event) else "no event"
            raise InconsistentState(
                f"batch {batch.id}: {source} is event {row.id} of hour {row.hour} in Parquet, and {in_kafka} in Kafka. Was the topic "
                "recreated, or was the part altered? Nothing of this batch was changed."
            )
    for source in copies.rows.keys() & copies.bodies.keys():
        event, payload, body = copies.events[source], copies.rows[source].record.value, copies.bodies[source].body
        if source in copies.records:
            is_conflict = payload == body != event.record.value
        else:
            is_conflict = payload != body and _is_same_event(body, event, batch) and not is_proven(event.hour)
        if is_conflict:
            raise InconsistentState(
                f"batch {batch.id}: {source} has {len(payload or b'')} bytes in Parquet, {len(body)} in its JSON object and "
                f"{len(event.record.value or b'')} in the copy that would be written. They are not the same, and no third store decides. "
                "Nothing of this batch was changed."
            )


def _is_same_event(body: bytes, event: Event, batch: Batch) -> bool:
    """Return whether these bytes are an event with the same id and hour."""
    record = classify(Record(event.record.source, -1, None, body), ACCEPT_ALL_RULES, batch.time)
    return isinstance(record, Event) and (record.id, record.hour) == (event.id, event.hour)
