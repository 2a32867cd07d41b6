"""Let go of what is older than its age: Parquet and JSON objects hour by hour, dead letters and repeats batch by batch.

    walk ──► old enough? ──► whole and sound? ──► freeze ──► delete
    bucket   ledger          Parquet, counters    ledger     by name, what the ledger knows as old

An hour is as old as the newest batch that added to it. Nothing goes that is younger than a pending batch, nothing of an hour that a
partition has not passed. Before JSON objects go, the hour's archive is proven to hold every row; before Parquet goes, its statistics are
written. A process may die between any two lines, or wake up an hour later and go on:

| it died, or slept, before | then                                                                                                    |
|---------------------------|---------------------------------------------------------------------------------------------------------|
| freeze                    | nothing is gone                                                                                         |
| delete                    | the hour is frozen, and says so; what is still there goes with the next run                             |
| the next delete           | what it deletes late can never count again: see below                                                   |

Parquet goes by the compactor's own rule: the next revision has no files, and what it does not name is swept. JSON objects go by their
metadata; where the same id comes again later, its object lies beside the older one's name (`flows.event_objects`), which a late delete
cannot reach. What a late riser writes again is of a batch that was taken: the next run finds it in front of its walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby, islice

from analytics_defs.core import hours
from analytics_defs.core.hours import Revision
from analytics_defs.core.layout import (
    DEAD_LETTERS,
    EVENTS,
    PARQUET,
    REPEATS,
    batch_of_dead_letters,
    batch_of_part,
    batch_time,
    event_dir,
    hour_of_path,
    hour_path,
    object_keys,
    parquet_dir,
    revision_of_archive,
    success_key,
)
from analytics_defs.core.ledger import Batch, BatchRecord
from analytics_defs.core.retention import Ages, LettersTaken, limit, newest
from analytics_defs.core.timestamps import hour_of, whole_milliseconds
from analytics_defs.errors import Contradiction, Frozen, TakenOver, TooSmall
from analytics_defs.flows.compact import compact, leftovers, mark
from analytics_defs.flows.hourly_stats import CalculatorBench, hourly_stats
from analytics_defs.flows.hours import READINGS
from analytics_defs.flows.passed import have_heads_passed
from analytics_defs.ports import Ledger, Ports

CHUNK = 500
"""Keys in memory at once."""
NAMED = 100
"""Foreign objects that a report names; it counts them all."""
AHEAD = timedelta(days=1)
"""No batch stores an event of an hour that begins later than this after its time."""


@dataclass(frozen=True, slots=True)
class Means:
    """What retention works with."""

    ports: Ports
    bench: CalculatorBench
    ages: Ages
    write: bool = True
    """False: only look."""


@dataclass(frozen=True, slots=True)
class Gone:
    """What went of one hour: of the events' hour, of dead letters and repeats that of their batch."""

    tree: str
    """`events`, `parquet`, `dead-letters` or `repeats`."""
    hour: str
    objects: int
    bytes: int


@dataclass(slots=True)
class Retention:
    """What one execution took, or would take."""

    gone: list[Gone] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """Hours that are old enough and stay, and why."""
    foreign: list[str] = field(default_factory=list)
    """The first `NAMED` objects in front of the limit that nobody here wrote. They are left alone."""
    foreigners: int = 0

    @property
    def objects(self) -> int:
        return sum(each.objects for each in self.gone)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.gone)


def retain(means: Means, report: Retention | None = None, on_gone: Callable[[int], None] = lambda _: None) -> Retention:
    """`report` is filled on the way: who hands one in sees what went before this raised. `on_gone` hears how many objects went.

    May be repeated, may die anywhere, and may run twice at once.
    """
    report, ages = report or Retention(), means.ages
    for age, take in ((ages.parquet, _take_parquet), (ages.objects, _take_objects), (ages.letters, _take_letters)):
        if age is not None:
            take(_Turn(means, report, on_gone, age))
    return report


class _Turn:
    """One kind's walk: what is old enough in it, and what became of it."""

    def __init__(self, means: Means, report: Retention, on_gone: Callable[[int], None], age: timedelta) -> None:
        self.ports, self.bench, self.write = means.ports, means.bench, means.write
        self.report, self._on_gone = report, on_gone
        pending = self.ports.ledger.snapshot().readable().pending.values()
        self.now = whole_milliseconds(self.ports.clock.now())
        self.limit = whole_milliseconds(limit(self.now, age, [batch.time for batch in pending]))
        """Batches up to this time are old enough."""
        self._passed: dict[str, bool | None] = {}

    def hours(self, tree: str, folder: Callable[[str], str], until: str) -> Iterator[tuple[str, Iterator[str]]]:
        """The keys of each hour up to that one, in order. What lies in front of it and in no hour's folder is foreign."""
        for hour, group in groupby(self.ports.archive.keys(tree), lambda key: _hour_in(key, folder)):
            if hour is None:
                self.leave(group)
            elif hour > until:
                return
            else:
                yield hour, group

    @contextmanager
    def passing_over(self, hour: str) -> Iterator[None]:
        """What one hour waits for keeps no other one."""
        try:
            yield
        except (Contradiction, TakenOver, Frozen, TooSmall) as fault:
            said = str(fault)
            self.report.waiting.append(said if hour in said else f"hour {hour}: {said}")

    def old(self, hour: str, batches: Sequence[str]) -> datetime | None:
        """The time of the newest of these batches of the hour, where the hour may go as a whole."""
        found = newest(batches)
        if found is None or found > self.limit:
            return None
        passed = self.has_passed(hour)
        if not passed:
            why = "Kafka does not answer whether every partition has passed it" if passed is None else "not every partition has passed it"
            self.report.waiting.append(f"hour {hour}: old enough, but {why}")
        return found if passed else None

    def has_passed(self, hour: str) -> bool | None:
        """Asked once for the newest hour that may be old enough: what has passed that has passed all before it."""
        for each in (hour_of(self.limit + AHEAD), hour):
            if each not in self._passed and None not in self._passed.values():
                self._passed[each] = have_heads_passed(each, self.ports.ledger.snapshot().readable(), self.ports)
            if self._passed.get(each):
                return True
        return None if None in self._passed.values() else False

    def sizes(self, keys: Sequence[str]) -> list[int]:
        found = self.ports.workers.run([partial(self.ports.archive.stat, key) for key in keys])
        return [each.bytes for each in found if each]

    def went(self, tree: str, hour: str, sizes: Sequence[int]) -> None:
        if not sizes:
            return
        self.report.gone.append(Gone(tree.rstrip("/"), hour, len(sizes), sum(sizes)))
        self._on_gone(len(sizes))

    def leave(self, keys: Iterator[str] | Sequence[str]) -> None:
        for key in keys:
            if key in self.report.foreign:  # a folder below an hour parts its keys in two, and each half looks
                continue
            self.report.foreigners += 1
            if len(self.report.foreign) < NAMED:
                self.report.foreign.append(key)


def _hour_in(key: str, folder: Callable[[str], str]) -> str | None:
    """The hour whose own folder this key lies in, and in no folder below."""
    hour = hour_of_path(key)
    try:
        return hour if hour and folder(hour) == key[: key.rindex("/") + 1] else None
    except ValueError:
        return None


def _frozen(hour: str, change: Callable[[Revision], Revision | None], turn: _Turn) -> Revision:
    """The hour compacted, proven sound, and frozen by the next revision; or as it is, where `change` has nothing to change."""
    for _ in range(READINGS):
        found = compact(hour, turn.ports, turn.bench).revision
        if found is None:
            raise Contradiction(f"hour {hour}: batches marked it, and it has no archive")
        ours = change(found)
        if ours is None:
            return found
        counts = turn.ports.ledger.revise(ours)
        if hours.same(counts, ours):
            return counts
    raise TakenOver(f"hour {hour}: its archive moved {READINGS} times while it was to be frozen. Nothing of it was taken; try again.")


# Parquet: a revision without files, and the compactor's sweep.


def _take_parquet(turn: _Turn) -> None:
    for hour, keys in turn.hours(PARQUET, parquet_dir, hour_of(turn.limit + AHEAD)):
        with turn.passing_over(hour):
            _take_parquet_of(hour, list(keys), turn)


def _take_parquet_of(hour: str, keys: Sequence[str], turn: _Turn) -> None:
    """The marker stays: it says what is no longer there."""
    ports = turn.ports
    revision, batches = ports.ledger.revision(hour), ports.ledger.batches_of_hour(hour)
    taken = revision.taken.batches if revision else ()
    if set(batches) - set(taken) and turn.old(hour, batches):
        if not turn.write:
            turn.leave([key for key in keys if not (batch_of_part(key) or revision_of_archive(key) or key == success_key(hour))])
            turn.went(PARQUET, hour, turn.sizes([key for key in keys if batch_of_part(key) in batches or revision_of_archive(key)]))
            return
        revision = _frozen(hour, partial(_without_rows, turn=turn), turn)
        keys = list(ports.archive.keys(parquet_dir(hour)))
    if revision and revision.taken.batches:
        swept, strangers = leftovers(revision, keys)
        turn.leave(strangers)
        if swept:
            sizes = turn.sizes(swept)
            if turn.write:
                mark(revision, turn.has_passed(hour), ports)
                ports.archive.delete(swept)
            turn.went(PARQUET, hour, sizes)


def _without_rows(found: Revision, turn: _Turn) -> Revision | None:
    """Its statistics are written first: they cannot be counted any more afterwards."""
    if not found.batches:
        return None
    if young := [batch for batch in found.batches if batch_time(batch) > turn.limit]:
        raise TakenOver(f"hour {found.hour}: batch {young[0]} added to it meanwhile. Nothing of it was taken.")
    if not found.taken.batches:
        hourly_stats(found.hour, turn.ports, turn.bench)
    return hours.without_rows(found, turn.now)


# JSON objects: each by what its own metadata say.


def _take_objects(turn: _Turn) -> None:
    for hour, keys in turn.hours(EVENTS, event_dir, hour_of(turn.limit + AHEAD)):
        with turn.passing_over(hour):
            _take_objects_of(hour, keys, turn)


def _take_objects_of(hour: str, keys: Iterator[str], turn: _Turn) -> None:
    ports = turn.ports
    revision, batches = ports.ledger.revision(hour), ports.ledger.batches_of_hour(hour)
    through = revision.taken.objects_through if revision else None
    found = newest(batches)
    if through is None or (found and through < found):
        through = turn.old(hour, batches) or through
    if through is None:
        return
    old = {batch for batch in batches if batch_time(batch) <= min(through, turn.limit)}
    is_frozen, sizes = False, list[int]()
    try:
        while some := list(islice(keys, CHUNK)):
            mine = _old_objects(hour, some, old, turn)
            if mine and turn.write:
                is_frozen = is_frozen or _freeze_objects(hour, through, turn)
                ports.archive.delete(list(mine))
            sizes += mine.values()
    finally:
        if sizes:
            turn.went(EVENTS, hour, sizes)


def _old_objects(hour: str, keys: Sequence[str], old: set[str], turn: _Turn) -> dict[str, int]:
    """Objects of these batches, with their sizes: under a name of theirs, and with the metadata that they write."""
    archive, mine = turn.ports.archive, dict[str, int]()
    for key, found in zip(keys, turn.ports.workers.run([partial(archive.stat, key) for key in keys]), strict=True):
        if found and key not in object_keys(hour, found.metadata):
            turn.leave([key])
        elif found and found.metadata.get("batch") in old:
            mine[key] = found.bytes
    return mine


def _freeze_objects(hour: str, through: datetime, turn: _Turn) -> bool:
    def change(found: Revision) -> Revision | None:
        is_frozen = found.taken.objects_through is not None and found.taken.objects_through >= through
        return None if is_frozen else hours.without_objects(found, through, turn.now)

    revision = _frozen(hour, change, turn)
    mark(revision, turn.has_passed(hour), turn.ports)
    return True


# Dead letters and repeats: by batch.


def _take_letters(turn: _Turn) -> None:
    for tree in (DEAD_LETTERS, REPEATS):
        for hour, keys in turn.hours(tree, lambda hour, tree=tree: f"{tree}{hour_path(hour)}/", hour_of(turn.limit)):  # type: ignore[misc]
            _take_letters_of(tree, hour, keys, turn)


def _take_letters_of(tree: str, hour: str, keys: Iterator[str], turn: _Turn) -> None:
    """Files that a redrive under way may read again stay until it is closed."""
    ports, sizes, is_noted = turn.ports, list[int](), False
    while some := list(islice(keys, CHUNK)):
        mine = _old_letters(some, turn)
        if mine and turn.write and not is_noted:
            ports.ledger.take_letters(LettersTaken(turn.limit, turn.now))
            is_noted = True
        needed = {key for batch in ports.ledger.snapshot().readable().pending.values() for key in batch.redrive_keys} if mine else set()
        mine = [key for key in mine if key not in needed]
        sizes += turn.sizes(mine)
        if turn.write:
            ports.archive.delete(mine)
    if sizes:
        turn.went(tree, hour, sizes)


def _old_letters(keys: Sequence[str], turn: _Turn) -> list[str]:
    """Those that the record of an old batch names as its own. A file of a batch that is neither closed nor pending is foreign."""
    mine = list[str]()
    for key, said in zip(keys, turn.ports.workers.run([partial(_writer, key, turn.ports.ledger) for key in keys]), strict=True):
        if isinstance(said, str):
            turn.report.waiting.append(f"{key} stays: {said}")
        elif said is None:
            turn.leave([key])
        elif isinstance(said, BatchRecord) and said.batch.time <= turn.limit:
            mine.append(key)
    return mine


def _writer(key: str, ledger: Ledger) -> BatchRecord | Batch | str | None:
    """The closed batch whose record names this file, or the pending one that will; why nobody can tell, where its item cannot be read."""
    batch_id = batch_of_dead_letters(key)
    if batch_id is None:
        return None
    try:
        pending, record = ledger.pending(batch_id), ledger.record(batch_id)  # in this order: one that is closed meanwhile has its record
    except Contradiction as fault:
        return str(fault)
    return record if record and key in (record.dead_letters_key, record.repeats_key) else pending
