"""Redrive: process dead letters again, after validation rules changed or a producer's format became known.

A redrive is a batch with the original sources, on a checkpoint of its own: only one redrive runs at a time. Its closing transaction also
records which sources were redriven. A second redrive of the same selection therefore changes nothing.
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
from analytics_defs.errors import DataExpired, InconsistentState, Superseded
from analytics_defs.flows.ingest.execute_plan import finish_batch
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.reread_batch import batch_of_dead_letter_file
from analytics_defs.flows.stored.expired_data import expired_dead_letters_of
from analytics_defs.ports import Ports

MAX_RECORDS_PER_REDRIVE = 20
"""Bound by DynamoDB's 100 actions in a transaction. Each record needs an entry, up to one checkpoint and two hour items; five more: 85."""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selection of dead letters. All given conditions must match."""

    reason: str | None = None
    hour: str | None = None
    """`YYYY-MM-DDTHH`: the hour in which the rejecting batch was cut."""
    batch_id: str | None = None


@dataclass(slots=True)
class RedriveResult:
    """Outcome of one redrive."""

    closed: list[BatchRecord] = field(default_factory=list)
    still_rejected: list[tuple[Source, str]] = field(default_factory=list)
    """Dead letters that the current rules reject too, with the reason. They were not changed."""
    already_redriven: int = 0
    """The number of dead letters that an earlier redrive processed. They were not changed."""

    @property
    def stored(self) -> int:
        return sum(record.outcome_counts.stored for record in self.closed)

    @property
    def duplicates(self) -> int:
        return sum(record.outcome_counts.duplicates for record in self.closed)


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter, with the key of its file and the batch that rejected it."""

    key: str
    batch_id: str
    letter: DeadLetter


def list_dead_letters(selection: DeadLetterFilter, ports: Ports) -> Iterator[StoredDeadLetter]:
    """Yield the selected dead letters of closed batches, in the order of their files. Redriven dead letters are among them.

    A file counts only if a batch record names it; copies and foreign objects are skipped. Raises InconsistentState if a file was altered,
    DataExpired if retention deleted the dead letters of the selected batch or of the whole selected hour.
    """
    _require_not_expired(selection, ports)
    folder = dead_letters_dir(selection.hour)
    keys = [dead_letters_key(selection.batch_id)] if selection.batch_id else ports.object_store.list_keys(folder)
    for key in keys:
        if not key.startswith(folder):
            continue
        record = batch_of_dead_letter_file(key, ports)
        if record is None:
            continue
        data = ports.object_store.get(key)
        if data is None and expired_dead_letters_of(record, ports):
            continue
        for letter in read_dead_letters(record, data):
            if selection.reason in (None, letter.reason):
                yield StoredDeadLetter(key, record.batch.id, letter)


def _require_not_expired(selection: DeadLetterFilter, ports: Ports) -> None:
    expiry, selected = ports.ledger.dead_letter_expiry(), selection.batch_id or selection.hour
    if expiry is None or selected is None:
        return
    if selection.batch_id:
        record = ports.ledger.batch_record(selection.batch_id)
        key = record.dead_letters_key if record and expired_dead_letters_of(record, ports) else None
        is_expired = key is not None and ports.object_store.get(key) is None
    else:
        is_empty = next(iter(ports.object_store.list_keys(dead_letters_dir(selected))), None) is None
        is_expired = end_of_hour(selected) <= expiry.expired_through and is_empty
    if is_expired:
        raise DataExpired(
            f"retention removed the dead letters of {selected} on {expiry.expired_at:%Y-%m-%dT%H:%MZ}: nothing is left of them to redrive. "
            "Nothing was changed; the records stay counted as dead letters."
        )


def redrive_dead_letters(
    selection: DeadLetterFilter, ports: Ports, options: IngestOptions, on_closed: Callable[[BatchRecord], None] = lambda _: None
) -> RedriveResult:
    """Redrive the selected dead letters, in batches of `MAX_RECORDS_PER_REDRIVE`. First finish a pending redrive.

    Raises Superseded if another redrive runs at the same time. Batches that were closed before stay closed.
    """
    result = RedriveResult()
    for batch in ports.ledger.snapshot().pending.values():
        if batch.kind is BatchKind.REDRIVE:
            finish_batch(batch, None, ports, options)
    dead_letters = list_dead_letters(selection, ports)
    while chunk := list(islice(dead_letters, MAX_RECORDS_PER_REDRIVE)):
        record = _redrive_chunk(chunk, ports, options, result)
        if record is not None:
            result.closed.append(record)
            on_closed(record)
    return result


def _redrive_chunk(
    dead_letters: Sequence[StoredDeadLetter], ports: Ports, options: IngestOptions, result: RedriveResult
) -> BatchRecord | None:
    """Redrive the dead letters that the current rules accept. Return the closed batch, or None if there are none.

    The checkpoint is read before the redriven entries. A redrive that closes in between moves it, and this batch cannot begin.
    """
    offset = ports.ledger.snapshot().require_readable().checkpoint(REDRIVE_CHECKPOINT).next_offset
    redriven = ports.ledger.redriven_by([stored.letter.record.source for stored in dead_letters])
    result.already_redriven += len(redriven)
    now = whole_milliseconds(ports.clock.now())
    accepted: list[tuple[Event, StoredDeadLetter]] = []
    for stored in dead_letters:
        source = stored.letter.record.source
        if source in redriven:
            continue
        classified = classify(stored.letter.record, options.validation_rules, now)
        if isinstance(classified, Event):
            accepted.append((classified, stored))
        else:
            result.still_rejected.append((source, str(getattr(classified, "reason", "tombstone"))))
    if not accepted:
        return None
    _require_unclaimed([event for event, _ in accepted], offset, ports)
    accepted.sort(key=lambda pair: pair[0].record.source)
    ranges = (Range(REDRIVE_CHECKPOINT, offset, offset + 1),)
    batch = Batch(
        id=batch_id(now, ranges),
        kind=BatchKind.REDRIVE,
        lane=REDRIVE_LANE,
        time=now,
        ranges=ranges,
        run_id=options.run_id,
        redriven_sources=tuple(event.record.source for event, _ in accepted),
        redrive_keys=tuple(sorted({stored.key for _, stored in accepted})),
        redrive_reasons=tuple(stored.letter.reason for _, stored in accepted),
        rules=options.validation_rules,
    )
    if not ports.ledger.begin_batch(batch):
        raise Superseded(
            f"another redrive began first (number {offset} on its checkpoint). Nothing was changed by this one. "
            "Run it again when that one has ended."
        )
    staged = StagedBatch(tuple(event for event, _ in accepted), write_event_json=options.write_event_json)
    return finish_batch(batch, staged, ports, options)


def _require_unclaimed(events: Sequence[Event], offset: int, ports: Ports) -> None:
    """Raise InconsistentState if one of the events owns its id: it was redriven before, and its redriven entry is missing.

    Raise Superseded if another redrive claimed it meanwhile. It began first, which moved the checkpoint.
    """
    items = ports.recent_events.get_items([event.id for event in events])
    claimed = [event for event in events if event.id in items and items[event.id].source == event.record.source]
    if not claimed:
        return
    checkpoint = ports.ledger.snapshot().checkpoint(REDRIVE_CHECKPOINT)
    if (checkpoint.next_offset, checkpoint.pending_batch_id) != (offset, None):
        raise Superseded(f"another redrive began first (number {offset} on its checkpoint). Nothing was changed by this one.")
    raise InconsistentState(
        f"dead letter {claimed[0].record.source}: expected an id that it does not own, because the ledger has no redrive of it, found its "
        f"item {claimed[0].id!r} in RecentEvents. Nothing was changed. `analytics audit` names the redrive and the command that writes "
        "its entry again."
    )
