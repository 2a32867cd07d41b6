"""How old what retention takes has to be: ages, and what each of them counts. Values only.

Age counts from batch time, never from an event's own time or an object's: a late event is as old as its batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.storage.object_keys import batch_time

MIN_RETENTION = timedelta(days=31)
"""The shortest age. For 30 days DynamoDB's items point to JSON objects, and Parquet restores them; a day more for clocks that differ."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long after its batch's time each kind is kept. None: for ever."""

    event_json: timedelta | None = None
    """JSON objects, one for each event."""
    parquet: timedelta | None = None
    """Parts and archives of hours."""
    dead_letters: timedelta | None = None
    """Files of dead letters, and of repeats."""

    def __post_init__(self) -> None:
        if any(age < MIN_RETENTION for age in (self.event_json, self.parquet, self.dead_letters) if age is not None):
            raise ValueError(f"{self}: expected ages of at least {MIN_RETENTION.days} days: until then the stores need each other")

    def __bool__(self) -> bool:
        return not (self.event_json is None and self.parquet is None and self.dead_letters is None)


@dataclass(frozen=True, slots=True)
class DeadLetterExpiry:
    """Files of dead letters and repeats of batches up to this batch time are gone, or go."""

    expired_through: datetime
    expired_at: datetime
    """When it was noted."""


def expiry_cutoff(now: datetime, age: timedelta, pending: Iterable[datetime]) -> datetime:
    """Batches up to this time are old enough. Nothing goes that is not older than every pending batch."""
    return min([now - age, *(time - timedelta(milliseconds=1) for time in pending)])


def newest_batch_time(batches: Iterable[str]) -> datetime | None:
    """The time of the newest of these batches: an hour is as old as that."""
    return max(map(batch_time, batches), default=None)
