"""What one kind's walk shares: the age that counts, the hours in front of it, what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby

from analytics_defs.core.hours.retention import Ages, limit, newest
from analytics_defs.core.hours.revision import Revision
from analytics_defs.core.storage.object_keys import batch_time, hour_of_path
from analytics_defs.core.timestamps import hour_of, whole_milliseconds
from analytics_defs.errors import Contradiction, Frozen, TakenOver, TooSmall
from analytics_defs.flows.hours.statistics import CalculatorBench
from analytics_defs.flows.retention.report import NAMED, Gone, Retention
from analytics_defs.flows.stored.hour_completeness import have_heads_passed
from analytics_defs.ports import Ports

CHUNK = 500
"""Keys in memory at once."""
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


class Turn:
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

    def must_be_old(self, found: Revision) -> None:
        """Asked of what is to be frozen. Raises TakenOver where a batch made the hour young since it was found old enough."""
        if young := [batch for batch in found.batches if batch_time(batch) > self.limit]:
            raise TakenOver(f"hour {found.hour}: batch {young[0]} added to it meanwhile. Nothing of it was taken.")

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
