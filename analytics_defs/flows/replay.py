"""Bring a past range back to what its batches recorded. Nothing is claimed anew; no head, no counter, no group offset moves.

    closed batches of the range ──► what is left of one ──► what it has to have ──► compare ──► put back what is missing or different
    ledger                          Kafka, Parquet, JSON    its record decides      stores      items, objects, files; at last archives

Batch by batch, oldest first, each whole. It may end anywhere, and be repeated: every write is what the batch itself wrote. A part whose
rows are in the hour's archive stays gone; an archive that is damaged is compacted again, once the batches are back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

from analytics_defs.core import letters
from analytics_defs.core.events import Rules
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Range
from analytics_defs.core.replaying import Hours, State, Store
from analytics_defs.core.timestamps import hour_of
from analytics_defs.errors import Contradiction, TakenOver
from analytics_defs.flows.compact import compact
from analytics_defs.flows.evidence import archive_is_sound
from analytics_defs.flows.hourly_stats import CalculatorBench
from analytics_defs.flows.hours import READINGS, Moved
from analytics_defs.flows.mending import Mending
from analytics_defs.ports import Ports

NAMED = 1_000
"""Changes that a report names; it counts them all."""
PAGE = 100


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as its batch left it."""

    batch: str
    store: Store
    state: State
    key: str
    """Of the object; of an item its id."""


@dataclass(slots=True)
class Replay:
    """What a replay found, and put back unless it only looked."""

    batches: int = 0
    counts: Counter[tuple[Store, State]] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)
    """The first `NAMED` of them."""
    contradictions: list[str] = field(default_factory=list)
    """Batches of which nothing was changed, and why."""
    lost: list[str] = field(default_factory=list)
    """What no store holds any more. The rest was done."""

    @property
    def changed(self) -> int:
        return sum(count for (_, state), count in self.counts.items() if state is not State.IDENTICAL)


@dataclass(frozen=True, slots=True)
class Means:
    """What a replay works with."""

    ports: Ports
    bench: CalculatorBench
    rules: Rules
    """For batches of versions that did not keep theirs."""
    write: bool = True
    """False: only look."""


def replay(wanted: Range | Hours, means: Means, on_batch: Callable[[BatchRecord], None] = lambda _: None) -> Replay:
    """Raises TakenOver where an hour is compacted again and again meanwhile; what was put back stays."""
    report, archives = Replay(), dict[str, bool]()
    for record in batches_of(wanted, means.ports):
        try:
            _replayed(record, means, report, archives)
        except Contradiction as error:
            report.contradictions.append(str(error))
        report.batches += 1
        on_batch(record)
    for hour in sorted(hour for hour, is_sound in archives.items() if not is_sound and means.write):
        try:
            compact(hour, means.ports, means.bench)
        except Contradiction as error:
            report.lost.append(str(error))
    return report


def batches_of(wanted: Range | Hours, ports: Ports) -> Iterator[BatchRecord]:
    """Closed batches of the range, oldest first; after each batch the redrives of its dead letters, where offsets were named."""
    if isinstance(wanted, Hours):
        yield from _of_hours(wanted, ports)
        return
    at, done = wanted.start, set[str]()
    while found := ports.ledger.ranges_after(wanted.topic_partition, at, PAGE):
        for each in found:
            if each.range.start >= wanted.end:
                return
            record = ports.ledger.record(each.batch_id)
            if record is None:
                raise Contradiction(f"batch {each.batch_id} closed {each.range}, and has no record in the ledger")
            yield record
            again = _redrives_of(record, ports) - done
            done |= again
            yield from (other for name in sorted(again) if (other := ports.ledger.record(name)))
        at = found[-1].range.end


def _redrives_of(record: BatchRecord, ports: Ports) -> set[str]:
    if record.dead_letters_key is None:
        return set()
    try:
        kept = letters.kept_letters(record, ports.archive.get(record.dead_letters_key))
    except Contradiction:
        return set()  # it was said of the batch itself
    return set(ports.ledger.redriven([each.record.source for each in kept]).values())


def _of_hours(wanted: Hours, ports: Ports) -> Iterator[BatchRecord]:
    last = wanted.end
    ids = {batch for hour in ports.ledger.hourly(wanted.first, last) if hour < last for batch in ports.ledger.batches_of_hour(hour)}
    day, today = date.fromisoformat(wanted.first[:10]), ports.clock.now().date()
    while day <= min(today, date.fromisoformat(last[:10])):
        ids |= {each.batch.id for each in ports.ledger.batches_of_day(day.isoformat()) if wanted.first <= hour_of(each.batch.time) < last}
        day += timedelta(days=1)
    yield from (record for each in sorted(ids) if (record := ports.ledger.record(each)))


# One batch.


def _replayed(record: BatchRecord, means: Means, report: Replay, archives: dict[str, bool]) -> None:
    """Looked at again where an hour of it is compacted meanwhile."""
    for _ in range(READINGS):
        try:
            found = Mending(record, means.ports, means.bench, means.rules)
            for hour, revision in found.archived().items():
                if hour not in archives:
                    archives[hour] = archive_is_sound(revision, means.ports, means.bench)
            found.look(archives)
        except Moved:
            continue
        _told(found, report, archives)
        if means.write:
            found.put_back()
        return
    raise TakenOver(f"batch {record.batch.id}: its hours were compacted {READINGS} times while it was looked at. Try again.")


def _told(found: Mending, report: Replay, archives: dict[str, bool]) -> None:
    for hour, revision in found.revisions.items():
        found.note(Store.ARCHIVE, State.IDENTICAL if archives[hour] else State.DIFFERENT, revision.keys[0])
    report.lost += found.lost
    for store, state, key in found.notes:
        report.counts[store, state] += 1
        if state is not State.IDENTICAL and len(report.changes) < NAMED:
            report.changes.append(Change(found.record.batch.id, store, state, key))
