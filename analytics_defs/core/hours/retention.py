"""Retention periods of stored data.

Age counts from the batch time, never from the time of an event or an object. A late event is as old as its batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.storage.object_keys import batch_time

MIN_RETENTION = timedelta(days=31)
"""The shortest period. For 30 days, RecentEvents items point to JSON objects and are restored from Parquet.
One more day covers clock skew."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Retention period of each kind of data, counted from the batch time. None: unlimited."""

    event_json: timedelta | None = None
    """JSON objects of events."""
    parquet: timedelta | None = None
    """Parts and hour archives."""
    dead_letters: timedelta | None = None
    """Files of dead letters and of duplicates."""

    def __post_init__(self) -> None:
        periods = (self.event_json, self.parquet, self.dead_letters)
        if any(period < MIN_RETENTION for period in periods if period is not None):
            raise ValueError(f"{self}: expected at least {MIN_RETENTION.days} days: until then the stores are restored from each other")

    def __bool__(self) -> bool:
        return not (self.event_json is None and self.parquet is None and self.dead_letters is None)


@dataclass(frozen=True, slots=True)
class DeadLetterExpiry:
    """Expiry of the files of dead letters and duplicates: written before the files are deleted."""

    expired_through: datetime
    """Files of batches up to this batch time are deleted, or are being deleted."""
    expired_at: datetime
    """When this entry was written."""


def expiry_cutoff(now: datetime, period: timedelta, pending: Iterable[datetime]) -> datetime:
    """Return the latest batch time that is expired. It is before the time of every pending batch."""
    return min([now - period, *(time - timedelta(milliseconds=1) for time in pending)])


def newest_batch_time(batches: Iterable[str]) -> datetime | None:
    """Return the latest time of these batches, from which the age of their hour counts. None if there are no batches."""
    return max(map(batch_time, batches), default=None)
