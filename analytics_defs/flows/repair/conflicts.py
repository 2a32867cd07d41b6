"""Where the stores contradict one another about a batch, and none of them decides."""

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
    """What is left of one batch, by source."""

    events: Mapping[Source, Event]
    """Each as the first store has it that is believed."""
    rows: Mapping[Source, Event]
    """In Parquet."""
    bodies: Mapping[Source, StoredObject]
    """JSON objects."""
    records: Mapping[Source, ClassifiedRecord]
    """From Kafka, as it is now."""


def require_no_conflicts(batch: Batch, seen: SurvivingCopies, is_proven: Callable[[str], bool]) -> None:
    """Raises InconsistentState where Parquet and object agree on other bytes than Kafka's, or differ without Kafka.

    Also where Kafka has another event than Parquet. Rows of an archive are proven by the digest of its revision; an object that is no
    such event any more proves nothing. `is_proven` answers for an hour.
    """
    for source, there in seen.rows.items():
        now = seen.records.get(source)
        if now is not None and not (isinstance(now, Event) and (now.id, now.hour) == (there.id, there.hour)):
            said = f"event {now.id} of hour {now.hour}" if isinstance(now, Event) else "no event"
            raise InconsistentState(
                f"batch {batch.id}: {source} is event {there.id} of hour {there.hour} in Parquet, and {said} in Kafka. Is "
                "the topic another one by now, or was the part altered? Nothing of this batch was changed."
            )
    for source in seen.rows.keys() & seen.bodies.keys():
        event, row, body = seen.events[source], seen.rows[source].record.value, seen.bodies[source].body
        if source in seen.records:
            wrong = row == body != event.record.value
        else:
            wrong = row != body and _is_event(body, event, batch) and not is_proven(event.hour)
        if wrong:
            raise InconsistentState(
                f"batch {batch.id}: {source} has {len(row or b'')} bytes in Parquet, {len(body)} in its object and "
                f"{len(event.record.value or b'')} where it is read from; they are not the same, and no third store decides. "
                "Nothing of this batch was changed."
            )


def _is_event(body: bytes, event: Event, batch: Batch) -> bool:
    """Whether these bytes are such an event, of the same id and hour."""
    again = classify(Record(event.record.source, -1, None, body), ACCEPT_ALL_RULES, batch.time)
    return isinstance(again, Event) and (again.id, again.hour) == (event.id, event.hour)
