"""Restore an hour's events in RecentEvents, with their own source, creation time and expiry.

    read the hour's files ──► skip expired and existing items ──► claim the rest with their batch's time

Existing items are not changed, whatever source owns them. One exception: an item that this event's own claim had replaced,
because its id had left the deduplication window. Idempotent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import groupby

from analytics_defs.core.events.event import Event, classify
from analytics_defs.core.offsets import Record
from analytics_defs.core.storage.object_keys import batch_time, require_hour
from analytics_defs.errors import DataExpired, InconsistentState
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.ingest.write_batch import CLAIM_CHUNK_EVENTS
from analytics_defs.flows.stored.hour_files import HourFiles, download_verified, retry_on_compaction
from analytics_defs.flows.stored.rows_from_json import ACCEPT_ALL_RULES
from analytics_defs.ports import RECENT_EVENTS_TTL, Ports, StoredEvent, StoredRow


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """Outcomes of the hour's events. They sum up to all events of the hour."""

    hour: str
    restored: int = 0
    already_present: int = 0
    """Items that existed with the event's own source."""
    owned_by_other_sources: int = 0
    """Ids that another source owns: reused after the deduplication window, or claimed after this item was lost."""
    past_ttl: int = 0
    """Events whose batch is older than the TTL of RecentEvents."""
    expired_rows: int = 0
    """Events whose rows retention has removed. They are older than the TTL too."""

    @property
    def events(self) -> int:
        return self.restored + self.already_present + self.owned_by_other_sources + self.past_ttl + self.expired_rows


def restore_hour(hour: str, ports: Ports, engine_factory: StatisticsEngineFactory) -> RestoreResult:
    """Restore the items of one hour. Raise DataExpired if retention has removed every row of the hour."""
    require_hour(hour)
    return retry_on_compaction(hour, ports, lambda files: _restore(files, ports, engine_factory))


def _restore(files: HourFiles, ports: Ports, engine_factory: StatisticsEngineFactory) -> RestoreResult:
    if files.expired.expired_batches and not files.keys:
        raise DataExpired(f"hour {files.hour} has expired data: {files.expired}. No row is left to restore; nothing was changed.")
    result = RestoreResult(files.hour, expired_rows=files.expired.expired_rows)
    with engine_factory() as engine:
        paths = download_verified(files, engine, ports)
        for rows in engine.read_rows(paths):
            for batch_id, batch_rows in groupby(rows, lambda row: row.batch_id):
                result = _restore_batch_rows(batch_id, list(batch_rows), result, ports)
    return result


def _restore_batch_rows(batch_id: str, rows: Sequence[StoredRow], result: RestoreResult, ports: Ports) -> RestoreResult:
    """Restore rows of one batch. Return the result with their outcomes added."""
    time = batch_time(batch_id)
    if time + RECENT_EVENTS_TTL <= ports.clock.now():
        return replace(result, past_ttl=result.past_ttl + len(rows))
    events = [event_of(row, result.hour) for row in rows]
    items = ports.recent_events.get_items([event.id for event in events])
    present = sum(event.id in items and items[event.id].source == event.record.source for event in events)
    absent = [event for event in events if event.id not in items or _was_replaced(items[event.id], event, time)]
    chunks = [absent[start : start + CLAIM_CHUNK_EVENTS] for start in range(0, len(absent), CLAIM_CHUNK_EVENTS)]
    refused = sum(
        len(claims.duplicates) for claims in ports.task_pool.run_all([partial(ports.recent_events.claim, chunk, time) for chunk in chunks])
    )
    return replace(
        result,
        restored=result.restored + len(absent) - refused,
        already_present=result.already_present + present,
        owned_by_other_sources=result.owned_by_other_sources + len(events) - len(absent) - present + refused,
    )


def _was_replaced(item: StoredEvent, event: Event, time: datetime) -> bool:
    return item.source != event.record.source and item.is_outside_deduplication_window(time)


def event_of(row: StoredRow, hour: str) -> Event:
    """Decode the event of an archived row. Raise InconsistentState if its payload is not an event of this hour."""
    event = classify(Record(row.source, row.record_timestamp_ms, None, row.payload), ACCEPT_ALL_RULES, batch_time(row.batch_id))
    if not isinstance(event, Event) or event.hour != hour:
        raise InconsistentState(f"hour {hour}: the row of {row.source} is not an event of that hour any more. Rebuild it: event_archive.")
    return event
