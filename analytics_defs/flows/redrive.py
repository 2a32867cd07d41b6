"""Put dead letters through again: after rules changed, or a producer's form was understood at last.

A redrive is a batch like any other, with the original sources, on a head of its own: one redrive at a time, and what was redriven is
marked in the transaction that counts it. So a second redrive of the same selection changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from analytics_defs.core.events.event import Event, classify
from analytics_defs.core.hours.revision import end_of_hour
from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, REDRIVE_LANE, Batch, BatchKind, BatchRecord
from analytics_defs.core.offsets import Range, Source
from analytics_defs.core.storage.dead_letter_files import DeadLetter, read_dead_letters
from analytics_defs.core.storage.object_keys import batch_id, dead_letters_dir, dead_letters_key
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.errors import DataExpired, Superseded
from analytics_defs.flows.ingest.execute_plan import finish_batch
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.reread_batch import writing_batch
from analytics_defs.flows.stored.expired_data import expired_dead_letters_of
from analytics_defs.ports import Ports

MAX_RECORDS_PER_REDRIVE = 20
"""A mark and at most one head and two hour items a record, five more actions: 85 of a transaction's 100."""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters. Everything that is given must fit."""

    reason: str | None = None
    hour: str | None = None
    """`YYYY-MM-DDTHH` of the time of the batch that rejected them."""
    batch_id: str | None = None


@dataclass(slots=True)
class RedriveResult:
    """What one redrive did."""

    closed: list[BatchRecord] = field(default_factory=list)
    still_rejected: list[tuple[Source, str]] = field(default_factory=list)
    """With the reason by today's rules. Nothing was changed for them."""
    already_redriven: int = 0
    """Redriven before: nothing was changed for them."""

    @property
    def stored(self) -> int:
        return sum(record.tally.stored for record in self.closed)

    @property
    def duplicates(self) -> int:
        return sum(record.tally.duplicates for record in self.closed)


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """One dead letter, and where it lies."""

    key: str
    batch_id: str
    letter: DeadLetter


def list_dead_letters(selection: DeadLetterFilter, ports: Ports) -> Iterator[StoredDeadLetter]:
    """The selected dead letters of closed batches, in the order of their files. Redriven ones stay there, and are among them.

    Only the file that a batch record names counts: copies and strangers are passed over. Raises InconsistentState where it was altered,
    Frozen where retention took the batch or the whole hour that was asked for.
    """
    _refuse_taken(selection, ports)
    folder = dead_letters_dir(selection.hour)
    keys = [dead_letters_key(selection.batch_id)] if selection.batch_id else ports.object_store.list_keys(folder)
    for key in keys:
        if not key.startswith(folder):
            continue
        record = writing_batch(key, ports)
        if record is None:
            continue
        data = ports.object_store.get(key)
        if data is None and expired_dead_letters_of(record, ports):
            continue
        for letter in read_dead_letters(record, data):
            if selection.reason in (None, letter.reason):
                yield StoredDeadLetter(key, record.batch.id, letter)


def _refuse_taken(selection: DeadLetterFilter, ports: Ports) -> None:
    taken, named = ports.ledger.dead_letter_expiry(), selection.batch_id or selection.hour
    if taken is None or named is None:
        return
    if selection.batch_id:
        record = ports.ledger.batch_record(selection.batch_id)
        key = record.dead_letters_key if record and expired_dead_letters_of(record, ports) else None
        is_gone = key is not None and ports.object_store.get(key) is None
    else:
        is_gone = end_of_hour(named) <= taken.expired_through and not any(
            True for _ in ports.object_store.list_keys(dead_letters_dir(named))
        )
    if is_gone:
        raise DataExpired(
            f"retention removed the dead letters of {named} on {taken.expired_at:%Y-%m-%dT%H:%MZ}: there is nothing left of them to put through "
            "again. Nothing was changed; the records stay counted as dead letters."
        )


def redrive_dead_letters(
    selection: DeadLetterFilter, ports: Ports, conduct: IngestOptions, on_closed: Callable[[BatchRecord], None] = lambda _: None
) -> RedriveResult:
    """Raises Superseded where another redrive goes on at the same time; what was closed before stays closed."""
    report = RedriveResult()
    for batch in ports.ledger.snapshot().pending.values():
        if batch.kind is BatchKind.REDRIVE:
            finish_batch(batch, None, ports, conduct)
    letters = list_dead_letters(selection, ports)
    while some := list(islice(letters, MAX_RECORDS_PER_REDRIVE)):
        record = _redrive_some(some, ports, conduct, report)
        if record is not None:
            report.closed.append(record)
            on_closed(record)
    return report


def _redrive_some(some: Sequence[StoredDeadLetter], ports: Ports, conduct: IngestOptions, report: RedriveResult) -> BatchRecord | None:
    """The head is read before the marks, and taken after them: a redrive in between moves it, and this one is refused."""
    turn = ports.ledger.snapshot().require_readable().checkpoint(REDRIVE_CHECKPOINT).next_offset
    marks = ports.ledger.redriven_by([each.letter.record.source for each in some])
    report.already_redriven += len(marks)
    now = whole_milliseconds(ports.clock.now())
    again: list[tuple[Event, StoredDeadLetter]] = []
    for each in some:
        if each.letter.record.source in marks:
            continue
        verdict = classify(each.letter.record, conduct.validation_rules, now)
        if isinstance(verdict, Event):
            again.append((verdict, each))
        else:
            report.still_rejected.append((each.letter.record.source, str(getattr(verdict, "reason", "tombstone"))))
    if not again:
        return None
    again.sort(key=lambda pair: pair[0].record.source)
    ranges = (Range(REDRIVE_CHECKPOINT, turn, turn + 1),)
    batch = Batch(
        id=batch_id(now, ranges),
        kind=BatchKind.REDRIVE,
        lane=REDRIVE_LANE,
        time=now,
        ranges=ranges,
        run_id=conduct.run_id,
        redriven_sources=tuple(event.record.source for event, _ in again),
        redrive_keys=tuple(sorted({kept.key for _, kept in again})),
        redrive_reasons=tuple(kept.letter.reason for _, kept in again),
        rules=conduct.validation_rules,
    )
    if not ports.ledger.begin_batch(batch):
        raise Superseded(f"another redrive took turn {turn} first. Nothing was changed by this one; run it again when that one has ended.")
    return finish_batch(batch, StagedBatch(tuple(event for event, _ in again), write_event_json=conduct.write_event_json), ports, conduct)
