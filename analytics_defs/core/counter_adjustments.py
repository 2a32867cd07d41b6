"""What mends counters: adjustments, and the sums of batch records that say what is to be mended. Pure.

Closes add to a counter item; they never read it. Its difference from the sum of its lane's records is therefore the same whatever closes
meanwhile, and only another adjustment changes it: so adjustments of an item are numbered, and each number is given once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.ingest.batch_accounting import counter_increments, hourly_increments, sum_counters
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.storage.object_keys import batch_id

ADJUSTMENT_LANE = -2
"""Adjustments count in a lane of their own: items that batches add to never go down, and readers sum over lanes anyway."""
MAX_BATCHES_NAMED = "batches"
"""The counter that every close adds 1 to."""
LATE_CLOSE_WINDOW = timedelta(hours=1)
"""Records are found by the time their batch was taken. One that closes later than this after it is found by a whole reading only."""
FIRST_BATCH_ID = "0"
"""Sorts before every batch id."""


@dataclass(frozen=True, slots=True, order=True)
class CounterItem:
    """Counters that change together: the totals of a lane, or those of an hour in a lane."""

    lane: int
    hour: str = ""
    """Empty for the totals."""

    def __str__(self) -> str:
        return f"{self.hour} lane {self.lane}" if self.hour else f"lane {self.lane}"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Added to a counter item for good. Written once, never changed."""

    target: CounterItem
    number: int
    """1, 2, 3, … for each item."""
    counts: Mapping[str, int]
    batches: int
    """How many closed batches of the lane the item was compared with."""
    made_at: datetime
    """UTC, whole milliseconds."""


class AdjustmentIndex:
    """All adjustments that were made, by counter item."""

    def __init__(self, adjustments: Iterable[Adjustment]) -> None:
        self._by_item: defaultdict[CounterItem, list[Adjustment]] = defaultdict(list)
        for each in adjustments:
            self._by_item[each.target].append(each)

    def next_number(self, item: CounterItem) -> int:
        return len(self._by_item.get(item, ())) + 1

    def counts(self, item: CounterItem) -> dict[str, int]:
        return sum_counters([each.counts for each in self._by_item.get(item, ())])


class RecordedCounters:
    """What closes have added, by counter item. Each record is added once, however often it is read; the records are not kept."""

    def __init__(self) -> None:
        self._sums: defaultdict[CounterItem, Counter[str]] = defaultdict(Counter)
        self._newest: datetime | None = None
        self._seen: set[str] = set()
        """Ids of the batches that may be read again."""

    @property
    def since(self) -> str:
        """Where to read on: ids from here on may have come since."""
        return batch_id(self._newest - LATE_CLOSE_WINDOW, ()).partition("-")[0] if self._newest else FIRST_BATCH_ID

    def add(self, records: Iterable[BatchRecord]) -> None:
        for record in records:
            if record.batch.id in self._seen:
                continue
            self._seen.add(record.batch.id)
            self._newest = max(self._newest or record.batch.time, record.batch.time)
            self._sums[CounterItem(record.batch.lane)].update(counter_increments(record))
            for hour, counts in hourly_increments(record).items():
                self._sums[CounterItem(record.batch.lane, hour)].update(counts)
            if len(self._seen) % 10_000 == 0:
                self._forget()
        self._forget()

    def _forget(self) -> None:
        since = self.since
        self._seen = {each for each in self._seen if each >= since}

    def batches(self, lane: int) -> int:
        return self.counts(CounterItem(lane)).get(MAX_BATCHES_NAMED, 0)

    def counts(self, item: CounterItem) -> Mapping[str, int]:
        return self._sums.get(item, {})

    def clear(self) -> None:
        self._sums.clear()
        self._seen.clear()
        self._newest = None

    @property
    def lanes(self) -> Sequence[int]:
        return sorted({item.lane for item in self._sums})

    @property
    def items(self) -> Sequence[CounterItem]:
        return sorted(self._sums)
