"""Put an hour's events back into RecentEvents, as they were: with their own source, creation time and expiry.

    read the hour's files ──► leave out what has expired, and what is there ──► claim the rest at its batch's own time

An item that is there stays as it is, whoever holds it, but for one that this event's own claim had replaced: its id was free by then.
Repeating it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import groupby

from analytics_defs.core.events.event import Event, classify
from analytics_defs.core.offsets import Record
from analytics_defs.core.storage.object_keys import batch_time, hour_path
from analytics_defs.errors import DataExpired, InconsistentState
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.ingest.write_batch import CLAIM_CHUNK_EVENTS
from analytics_defs.flows.stored.hour_files import HourFiles, download_verified, read_consistently
from analytics_defs.flows.stored.rows_from_json import ACCEPT_ALL_RULES
from analytics_defs.ports import RECENT_EVENTS_TTL, Ports, StoredEvent, StoredRow


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What became of the hour's events. The numbers add up to all of them."""

    hour: str
    restored: int = 0
    already_present: int = 0
    """Items that were there under their own source."""
    owned_by_other_sources: int = 0
    """Ids that another source holds: the same id came again after 30 days, or before this one was lost."""
    expired: int = 0
    """Older than 30 days by their batch's time."""
    expired_rows: int = 0
    """Whose rows retention took: they are older than 30 days too."""

    @property
    def events(self) -> int:
        return self.restored + self.already_present + self.owned_by_other_sources + self.expired + self.expired_rows


def restore_hour(hour: str, ports: Ports, bench: StatisticsEngineFactory) -> RestoreResult:
    """Raises DataExpired where retention took every row of the hour."""
    hour_path(hour)
    return read_consistently(hour, ports, lambda account: _restore(account, ports, bench))


def _restore(account: HourFiles, ports: Ports, bench: StatisticsEngineFactory) -> RestoreResult:
    if account.expired.expired_batches and not account.keys:
        raise DataExpired(f"hour {account.hour} is frozen: {account.expired}. Nothing of it is left to be restored; nothing was changed.")
    done = RestoreResult(account.hour, expired_rows=account.expired.expired_rows)
    with bench() as table:
        paths = download_verified(account, table, ports)
        for rows in table.read_rows(paths):
            for batch_id, some in groupby(rows, lambda row: row.batch_id):
                done = _restore_some(batch_id, list(some), done, ports)
    return done


def _restore_some(batch_id: str, rows: Sequence[StoredRow], done: RestoreResult, ports: Ports) -> RestoreResult:
    """Rows of one batch."""
    time = batch_time(batch_id)
    if time + RECENT_EVENTS_TTL <= ports.clock.now():
        return replace(done, expired=done.expired + len(rows))
    events = [event_of(row, done.hour) for row in rows]
    there = ports.recent_events.get_items([event.id for event in events])
    own = sum(event.id in there and there[event.id].source == event.record.source for event in events)
    absent = [event for event in events if event.id not in there or _was_replaced(there[event.id], event, time)]
    chunks = [absent[start : start + CLAIM_CHUNK_EVENTS] for start in range(0, len(absent), CLAIM_CHUNK_EVENTS)]
    refused = sum(
        len(claims.duplicates) for claims in ports.task_pool.run_all([partial(ports.recent_events.claim, chunk, time) for chunk in chunks])
    )
    return replace(
        done,
        restored=done.restored + len(absent) - refused,
        already_present=done.already_present + own,
        owned_by_other_sources=done.owned_by_other_sources + len(events) - len(absent) - own + refused,
    )


def _was_replaced(item: StoredEvent, event: Event, time: datetime) -> bool:
    return item.source != event.record.source and item.is_outside_deduplication_window(time)


def event_of(row: StoredRow, hour: str) -> Event:
    """The event of an archived row. Raises InconsistentState where its payload is none any more."""
    verdict = classify(Record(row.source, row.record_timestamp_ms, None, row.payload), ACCEPT_ALL_RULES, batch_time(row.batch_id))
    if not isinstance(verdict, Event) or verdict.hour != hour:
        raise InconsistentState(f"hour {hour}: the row of {row.source} is not an event of that hour any more. Rebuild it: event_archive.")
    return verdict
