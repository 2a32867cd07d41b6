"""Corrections of counters, and the sums of batch records that counters are compared with.

Closing a batch adds to counters without reading them, so concurrent closes do not change the error of a counter.
Only an adjustment changes it. Adjustments of a counter item are numbered and each number is written once
(conditional put), so an error is corrected exactly once.
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
"""Lane of adjustments. They are stored beside the items that batches add to; readers sum over all lanes."""
BATCHES_COUNTER = "batches"
"""Name of the counter that every close increments by 1."""
LATE_CLOSE_WINDOW = timedelta(hours=1)
"""Incremental reads look back this far. A batch that closes later than that is found only by a full scan."""
FIRST_BATCH_ID = "0"
"""Sorts before every batch id."""


@dataclass(frozen=True, slots=True, order=True)
class CounterItem:
    """Counters that are stored in one item: the totals of a lane, or of one hour in a lane."""

    lane: int
    hour: str = ""
    """Empty for the totals."""

    def __str__(self) -> str:
        return f"{self.hour} lane {self.lane}" if self.hour else f"lane {self.lane}"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A correction that is added to a counter item. Written once and never changed."""

    target: CounterItem
    number: int
    """1, 2, 3, … within a counter item."""
    counts: Mapping[str, int]
    batches: int
    """Number of closed batches of the lane that the item was compared with."""
    made_at: datetime
    """UTC, whole milliseconds."""


class AdjustmentIndex:
    """All stored adjustments, by counter item."""

    def __init__(self, adjustments: Iterable[Adjustment]) -> None:
        self._by_item: defaultdict[CounterItem, list[Adjustment]] = defaultdict(list)
        for adjustment in adjustments:
            self._by_item[adjustment.target].append(adjustment)

    def next_number(self, item: CounterItem) -> int:
        return len(self._by_item.get(item, ())) + 1

    def counts(self, item: CounterItem) -> dict[str, int]:
        return sum_counters([adjustment.counts for adjustment in self._by_item.get(item, ())])


class RecordedCounters:
    """Sums of batch records, by counter item. Adding a record again changes nothing. Records are not kept in memory."""

    def __init__(self) -> None:
        self._sums: defaultdict[CounterItem, Counter[str]] = defaultdict(Counter)
        self._newest: datetime | None = None
        self._seen: set[str] = set()
        """Ids of added batches that the next incremental read may return again."""

    @property
    def since(self) -> str:
        """Return the lowest batch id for the next incremental read."""
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
                self._drop_old_ids()
        self._drop_old_ids()

    def _drop_old_ids(self) -> None:
        since = self.since
        self._seen = {seen_id for seen_id in self._seen if seen_id >= since}

    def batches(self, lane: int) -> int:
        return self.counts(CounterItem(lane)).get(BATCHES_COUNTER, 0)

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
