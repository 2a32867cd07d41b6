"""Put dead letters through again: after rules changed, or a producer's form was understood at last.

A redrive is a batch like any other, with the original sources, on a head of its own: one redrive at a time, and what was redriven is
marked in the transaction that counts it. So a second redrive of the same selection changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from analytics_defs.core.events.event import Event, judge
from analytics_defs.core.hours.revision import end_of_hour
from analytics_defs.core.ingest.batch_builder import Staged
from analytics_defs.core.ledger import REDRIVE_HEAD, REDRIVE_LANE, Batch, BatchKind, BatchRecord
from analytics_defs.core.offsets import Range, Source
from analytics_defs.core.storage.dead_letter_files import DeadLetter, kept_letters
from analytics_defs.core.storage.object_keys import batch_id, dead_letters_dir, dead_letters_key
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.errors import Frozen, TakenOver
from analytics_defs.flows.ingest.execute_plan import Conduct, finish
from analytics_defs.flows.ingest.reread_batch import writer_of
from analytics_defs.flows.stored.expired_data import letters_taken_of
from analytics_defs.ports import Ports

MAX_RECORDS = 20
"""A mark and at most one head and two hour items a record, five more actions: 85 of a transaction's 100."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters. Everything that is given must fit."""

    reason: str | None = None
    hour: str | None = None
    """`YYYY-MM-DDTHH` of the time of the batch that rejected them."""
    batch_id: str | None = None


@dataclass(slots=True)
class Redrive:
    """What one redrive did."""

    closed: list[BatchRecord] = field(default_factory=list)
    still_rejected: list[tuple[Source, str]] = field(default_factory=list)
    """With the reason by today's rules. Nothing was changed for them."""
    already: int = 0
    """Redriven before: nothing was changed for them."""

    @property
    def stored(self) -> int:
        return sum(record.tally.stored for record in self.closed)

    @property
    def repeats(self) -> int:
        return sum(record.tally.repeats for record in self.closed)


@dataclass(frozen=True, slots=True)
class Kept:
    """One dead letter, and where it lies."""

    key: str
    batch_id: str
    letter: DeadLetter


def dead_letters(selection: Selection, ports: Ports) -> Iterator[Kept]:
    """The selected dead letters of closed batches, in the order of their files. Redriven ones stay there, and are among them.

    Only the file that a batch record names counts: copies and strangers are passed over. Raises Contradiction where it was altered,
    Frozen where retention took the batch or the whole hour that was asked for.
    """
    _refuse_taken(selection, ports)
    folder = dead_letters_dir(selection.hour)
    keys = [dead_letters_key(selection.batch_id)] if selection.batch_id else ports.archive.keys(folder)
    for key in keys:
        if not key.startswith(folder):
            continue
        record = writer_of(key, ports)
        if record is None:
            continue
        data = ports.archive.get(key)
        if data is None and letters_taken_of(record, ports):
            continue
        for letter in kept_letters(record, data):
            if selection.reason in (None, letter.reason):
                yield Kept(key, record.batch.id, letter)


def _refuse_taken(selection: Selection, ports: Ports) -> None:
    taken, named = ports.ledger.letters_taken(), selection.batch_id or selection.hour
    if taken is None or named is None:
        return
    if selection.batch_id:
        record = ports.ledger.record(selection.batch_id)
        key = record.dead_letters_key if record and letters_taken_of(record, ports) else None
        is_gone = key is not None and ports.archive.get(key) is None
    else:
        is_gone = end_of_hour(named) <= taken.through and not any(True for _ in ports.archive.keys(dead_letters_dir(named)))
    if is_gone:
        raise Frozen(
            f"retention removed the dead letters of {named} on {taken.at:%Y-%m-%dT%H:%MZ}: there is nothing left of them to put through "
            "again. Nothing was changed; the records stay counted as dead letters."
        )


def redrive(selection: Selection, ports: Ports, conduct: Conduct, on_closed: Callable[[BatchRecord], None] = lambda _: None) -> Redrive:
    """Raises TakenOver where another redrive goes on at the same time; what was closed before stays closed."""
    report = Redrive()
    for batch in ports.ledger.snapshot().pending.values():
        if batch.kind is BatchKind.REDRIVE:
            finish(batch, None, ports, conduct)
    letters = dead_letters(selection, ports)
    while some := list(islice(letters, MAX_RECORDS)):
        record = _redrive_some(some, ports, conduct, report)
        if record is not None:
            report.closed.append(record)
            on_closed(record)
    return report


def _redrive_some(some: Sequence[Kept], ports: Ports, conduct: Conduct, report: Redrive) -> BatchRecord | None:
    """The head is read before the marks, and taken after them: a redrive in between moves it, and this one is refused."""
    turn = ports.ledger.snapshot().readable().head(REDRIVE_HEAD).next
    marks = ports.ledger.redriven([each.letter.record.source for each in some])
    report.already += len(marks)
    now = whole_milliseconds(ports.clock.now())
    again: list[tuple[Event, Kept]] = []
    for each in some:
        if each.letter.record.source in marks:
            continue
        verdict = judge(each.letter.record, conduct.rules, now)
        if isinstance(verdict, Event):
            again.append((verdict, each))
        else:
            report.still_rejected.append((each.letter.record.source, str(getattr(verdict, "reason", "tombstone"))))
    if not again:
        return None
    again.sort(key=lambda pair: pair[0].record.source)
    ranges = (Range(REDRIVE_HEAD, turn, turn + 1),)
    batch = Batch(
        id=batch_id(now, ranges),
        kind=BatchKind.REDRIVE,
        lane=REDRIVE_LANE,
        time=now,
        ranges=ranges,
        run_id=conduct.run_id,
        redrives=tuple(event.record.source for event, _ in again),
        redrive_keys=tuple(sorted({kept.key for _, kept in again})),
        redrive_reasons=tuple(kept.letter.reason for _, kept in again),
        rules=conduct.rules,
    )
    if not ports.ledger.take(batch):
        raise TakenOver(f"another redrive took turn {turn} first. Nothing was changed by this one; run it again when that one has ended.")
    return finish(batch, Staged(tuple(event for event, _ in again), event_objects=conduct.event_objects), ports, conduct)
