"""An hour as exact readers see it: the files of its newest revision, and the parts of the closed batches that are not in it yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from analytics_defs.core.hours.revision import Revision, Rows, Taken
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.storage.object_keys import batch_of_part, part_key
from analytics_defs.errors import Contradiction, Frozen, TakenOver, Unavailable
from analytics_defs.ports import Ports, Table

T = TypeVar("T")
READINGS = 10


class Moved(TakenOver):
    """The hour's archive has another revision than a moment ago."""


@dataclass(frozen=True, slots=True)
class Account:
    """What the ledger says of an hour."""

    hour: str
    revision: Revision | None
    later: tuple[str, ...]
    """Closed batches whose rows are still in parts of their own, sorted."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The files that hold every row of a closed batch, once."""
        return (*(self.revision.keys if self.revision else ()), *(part_key(self.hour, each) for each in self.later))

    @property
    def batches(self) -> tuple[str, ...]:
        """Also those whose rows retention took."""
        return tuple(sorted({*(self.revision.known if self.revision else ()), *self.later}))

    @property
    def taken(self) -> Taken:
        return self.revision.taken if self.revision else Taken()

    @property
    def version(self) -> str:
        """Of what an exact reader sees: it changes with every row."""
        return f"{self.revision.number if self.revision else 0}+{len(self.later)}"


def account_of(hour: str, ports: Ports) -> Account:
    """The revision is read first: a batch closed later is then among the later ones, and never in both."""
    revision = ports.ledger.revision(hour)
    known = revision.known if revision else frozenset[str]()
    return Account(hour, revision, tuple(each for each in sorted(ports.ledger.batches_of_hour(hour)) if each not in known))


def exactly(hour: str, ports: Ports, read: Callable[[Account], T]) -> T:
    """What `read` makes of the hour, while nobody compacts it: read again where it raises Moved.

    Raises TakenOver where the hour moves every time.
    """
    for _ in range(READINGS):
        try:
            return read(account_of(hour, ports))
        except Moved:
            continue
    raise TakenOver(f"hour {hour}: its archive moved {READINGS} times while it was read. Nothing was changed; try again.")


def still(account: Account, ports: Ports) -> None:
    """Asked after a file was not there or not sound. Raises Moved where somebody else has compacted the hour meanwhile."""
    now = ports.ledger.revision(account.hour)
    if (now.number if now else 0) != (account.revision.number if account.revision else 0):
        raise Moved(f"hour {account.hour}: another executor made revision {now.number if now else 0}")


def whole(account: Account) -> None:
    """Asked by who counts every row of an hour. Raises Frozen where retention took some."""
    if account.taken.batches:
        raise Frozen(
            f"hour {account.hour} is frozen: {account.taken}, and {len(account.later)} later batches added to it. What is left would make "
            "smaller numbers than were stored. Nothing was changed; what was stored stays."
        )


def live_counters(hour: str, ports: Ports, fit: Callable[[Mapping[str, int]], bool]) -> Mapping[str, int]:
    """Of the hour. Asked for once more where they do not fit: a close may be seen by half, in its records and not yet here."""
    counts = ports.ledger.hourly(hour, hour).get(hour, {})
    return counts if fit(counts) else ports.ledger.hourly(hour, hour).get(hour, {})


def bring(keys: Sequence[str], table: Table, ports: Ports) -> dict[str, str]:
    """Local copies of those objects that are there, by key."""
    paths = {key: table.path(key) for key in keys}
    there = ports.workers.run([partial(ports.archive.download, key, path) for key, path in paths.items()])
    return {key: path for (key, path), found in zip(paths.items(), there, strict=True) if found}


def bring_all(account: Account, table: Table, ports: Ports) -> list[str]:
    """Local copies of the whole hour. Raises Moved, or Contradiction where a file is gone and nobody compacted."""
    found = bring(account.keys, table, ports)
    missing = [key for key in account.keys if key not in found]
    if missing:
        still(account, ports)
        raise _beyond_reading(account, missing, "not there")
    return list(found.values())


def bring_sound(account: Account, table: Table, ports: Ports) -> list[str]:
    """`bring_all`, and none of the files is damaged. Raises Contradiction where one is."""
    paths = bring_all(account, table, ports)
    sound(account, paths, table)
    return paths


@contextmanager
def damage_named(account: Account, paths: Sequence[str], table: Table) -> Iterator[None]:
    """Where reading these files of the hour fails inside, and one of them is damaged, that is said: trying again would not help."""
    try:
        yield
    except Unavailable as error:
        sound(account, paths, table)
        raise error from None


def sound(account: Account, paths: Sequence[str], table: Table) -> None:
    """Raises Contradiction where one of these files of the hour is damaged."""
    seen = table.look(paths)
    damaged = [key for key, path in zip(account.keys, paths, strict=True) if seen[path] is None]
    if damaged:
        raise _beyond_reading(account, damaged, "damaged")


def _beyond_reading(account: Account, keys: Sequence[str], what: str) -> Contradiction:
    return Contradiction(
        f"hour {account.hour}: {', '.join(keys[:3])}{' and more' if keys[3:] else ''} is {what}, and closed batches have rows in it. "
        f"Materialize event_archive for {account.hour} (`analytics compact {account.hour}`): it is rebuilt from the JSON tree."
    )


def records_of(batches: Sequence[str], ports: Ports) -> dict[str, BatchRecord]:
    """Raises Contradiction where a batch that is marked closed has no record."""
    found = dict(zip(batches, ports.workers.run([partial(ports.ledger.record, each) for each in batches]), strict=True))
    if missing := [batch for batch, record in found.items() if record is None]:
        raise Contradiction(f"{', '.join(missing[:3])} marked an hour, and have no record in the ledger")
    return {batch: record for batch, record in found.items() if record is not None}


def expected(hour: str, records: Mapping[str, BatchRecord]) -> dict[str, int]:
    """Rows by batch, as their records have them."""
    return {batch: sum(record.hours.get(hour, {}).values()) for batch, record in records.items()}


def unsound(account: Account, seen: Mapping[str, Rows | None], rows: Mapping[str, int]) -> Iterator[str]:
    """Keys whose file is missing, damaged, or holds other rows than it should. `seen`: what each key's file holds."""
    for key in account.keys:
        found, batch = seen.get(key), batch_of_part(key)
        if found is None or (batch is not None and dict(found.by_batch) != {batch: rows[batch]}):
            yield key
