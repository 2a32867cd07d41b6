"""What the live counters should say, from the closed batches, and where the archive holds other rows than those batches recorded.

the records of all closed batches ──► their sums against the counters ──► rows by batch, of every hour, against the records

It writes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from analytics_defs.core.counting import added, hourly, totals
from analytics_defs.core.hours import together
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.errors import TakenOver
from analytics_defs.flows.hourly_stats import CalculatorBench
from analytics_defs.flows.hours import Account, bring_all, exactly, expected, records_of, sound
from analytics_defs.ports import Ports

READINGS = 10
FIRST_HOUR, LAST_HOUR = "0000", "9999-12-31T23"
ALL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class CounterDifference:
    """One counter that is not the sum of the batch records."""

    counter: str
    """`lane <lane> <name>`, or `<hour> <name>` over all lanes."""
    live: int
    recorded: int
    batches: tuple[str, ...]
    """Those that have a share in it, sorted."""

    @property
    def difference(self) -> int:
        return self.live - self.recorded


@dataclass(frozen=True, slots=True)
class ArchiveDifference:
    """One batch of which an hour's archive holds other rows than its record says."""

    hour: str
    batch: str
    archived: int
    recorded: int


@dataclass(frozen=True, slots=True)
class Recomputed:
    batches: int
    hours: tuple[str, ...]
    """Those whose archive was read."""
    counters: tuple[CounterDifference, ...]
    archive: tuple[ArchiveDifference, ...]

    @property
    def agrees(self) -> bool:
        return not self.counters and not self.archive


@dataclass(frozen=True, slots=True)
class _Quiet:
    """The ledger while no batch was closed."""

    records: Sequence[BatchRecord]
    lanes: Mapping[int, Mapping[str, int]]
    hours: Mapping[str, Mapping[str, int]]


def compare(ports: Ports, bench: CalculatorBench, done: Callable[[int, int], None]) -> Recomputed:
    """`done` hears how many hours of how many were read.

    Raises TakenOver where batches close during every reading, Contradiction where a file of a closed batch is missing or damaged.
    """
    quiet = _quiet(ports)
    hours = sorted({hour for record in quiet.records for hour in record.hours})
    archive = list[ArchiveDifference]()
    for number, hour in enumerate(hours, 1):
        archive += _archive_differences(hour, ports, bench)
        done(number, len(hours))
    return Recomputed(len(quiet.records), tuple(hours), tuple(_counter_differences(quiet)), tuple(archive))


def _quiet(ports: Ports) -> _Quiet:
    """Every close adds 1 to its lane's `batches`: totals that are the same before and after mean that none came between.

    Records and counters read inside are then of one moment, but for a transaction that DynamoDB shows by half: asking again tells.
    """
    for _ in range(READINGS):
        before = ports.ledger.counters_by_lane()
        found = _Quiet(ports.ledger.last_batches(ALL), before, ports.ledger.hourly(FIRST_HOUR, LAST_HOUR))
        if ports.ledger.counters_by_lane() == before:
            return found
    raise TakenOver(f"batches were closed during each of {READINGS} readings of the ledger. Nothing was changed; try again.")


def _counter_differences(quiet: _Quiet) -> Iterator[CounterDifference]:
    shares: defaultdict[str, dict[str, Mapping[str, int]]] = defaultdict(dict)
    for record in quiet.records:
        shares[f"lane {record.batch.lane}"][record.batch.id] = totals(record)
        for hour, counts in hourly(record).items():
            shares[hour][record.batch.id] = counts
    live = {f"lane {lane}": counts for lane, counts in quiet.lanes.items()} | dict(quiet.hours)
    for where in sorted({*shares, *live}):
        counted, recorded = live.get(where, {}), added(list(shares[where].values()))
        for name in sorted({*counted, *recorded}):
            if counted.get(name, 0) != recorded.get(name, 0):
                involved = tuple(sorted(batch for batch, counts in shares[where].items() if counts.get(name)))
                yield CounterDifference(f"{where} {name}", counted.get(name, 0), recorded.get(name, 0), involved)


def _archive_differences(hour: str, ports: Ports, bench: CalculatorBench) -> list[ArchiveDifference]:
    def read(account: Account) -> list[ArchiveDifference]:
        with bench() as table:
            paths = bring_all(account, table, ports)
            sound(account, paths, table)
            archived = together(rows for rows in table.look(paths).values() if rows is not None).by_batch
        recorded = expected(hour, records_of(account.batches, ports))
        return [
            ArchiveDifference(hour, batch, archived.get(batch, 0), recorded.get(batch, 0))
            for batch in sorted({*archived, *recorded})
            if archived.get(batch, 0) != recorded.get(batch, 0)
        ]

    return exactly(hour, ports, read)
