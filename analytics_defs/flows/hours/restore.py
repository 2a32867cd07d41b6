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

from analytics_defs.core.events.event import Event, judge
from analytics_defs.core.offsets import Record
from analytics_defs.core.storage.object_keys import batch_time, hour_path
from analytics_defs.errors import Contradiction, Frozen
from analytics_defs.flows.hours.statistics import CalculatorBench
from analytics_defs.flows.ingest.write_batch import CHUNK
from analytics_defs.flows.stored.hour_files import Account, bring_sound, exactly
from analytics_defs.flows.stored.rows_from_json import ANY
from analytics_defs.ports import KEPT, Ports, StoredEvent, StoredRow


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of the hour's events. The numbers add up to all of them."""

    hour: str
    restored: int = 0
    there: int = 0
    """Items that were there under their own source."""
    held_by_others: int = 0
    """Ids that another source holds: the same id came again after 30 days, or before this one was lost."""
    expired: int = 0
    """Older than 30 days by their batch's time."""
    taken: int = 0
    """Whose rows retention took: they are older than 30 days too."""

    @property
    def events(self) -> int:
        return self.restored + self.there + self.held_by_others + self.expired + self.taken


def restore(hour: str, ports: Ports, bench: CalculatorBench) -> Restored:
    """Raises Frozen where retention took every row of the hour."""
    hour_path(hour)
    return exactly(hour, ports, lambda account: _restore(account, ports, bench))


def _restore(account: Account, ports: Ports, bench: CalculatorBench) -> Restored:
    if account.taken.batches and not account.keys:
        raise Frozen(f"hour {account.hour} is frozen: {account.taken}. Nothing of it is left to be restored; nothing was changed.")
    done = Restored(account.hour, taken=account.taken.rows)
    with bench() as table:
        paths = bring_sound(account, table, ports)
        for rows in table.rows(paths):
            for batch_id, some in groupby(rows, lambda row: row.batch_id):
                done = _restore_some(batch_id, list(some), done, ports)
    return done


def _restore_some(batch_id: str, rows: Sequence[StoredRow], done: Restored, ports: Ports) -> Restored:
    """Rows of one batch."""
    time = batch_time(batch_id)
    if time + KEPT <= ports.clock.now():
        return replace(done, expired=done.expired + len(rows))
    events = [event_of(row, done.hour) for row in rows]
    there = ports.recent.held([event.id for event in events])
    own = sum(event.id in there and there[event.id].source == event.record.source for event in events)
    absent = [event for event in events if event.id not in there or _was_replaced(there[event.id], event, time)]
    chunks = [absent[start : start + CHUNK] for start in range(0, len(absent), CHUNK)]
    refused = sum(len(claims.refused) for claims in ports.workers.run([partial(ports.recent.claim, chunk, time) for chunk in chunks]))
    return replace(
        done,
        restored=done.restored + len(absent) - refused,
        there=done.there + own,
        held_by_others=done.held_by_others + len(events) - len(absent) - own + refused,
    )


def _was_replaced(item: StoredEvent, event: Event, time: datetime) -> bool:
    return item.source != event.record.source and item.is_forgotten(time)


def event_of(row: StoredRow, hour: str) -> Event:
    """The event of an archived row. Raises Contradiction where its payload is none any more."""
    verdict = judge(Record(row.source, row.record_timestamp_ms, None, row.payload), ANY, batch_time(row.batch_id))
    if not isinstance(verdict, Event) or verdict.hour != hour:
        raise Contradiction(f"hour {hour}: the row of {row.source} is not an event of that hour any more. Rebuild it: event_archive.")
    return verdict
