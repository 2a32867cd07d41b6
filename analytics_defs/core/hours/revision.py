"""Revisions of an hour archive, and summaries of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from analytics_defs.core.storage.object_keys import require_hour

_HALF = 1 << 64


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One Parquet file of an hour archive."""

    key: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RowSummary:
    """Totals of a set of rows, independent of their order and of the number of files."""

    by_batch: Mapping[str, int] = field(default_factory=dict)
    digest: str = "0" * 32
    """Order-independent digest of all columns but `record_timestamp`, which JSON objects of older versions do not carry.
    It detects accidents, not attacks."""
    types: Mapping[str, int] = field(default_factory=dict)
    offsets: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """First and last offset by topic-partition, both inclusive."""
    first: datetime | None = None
    last: datetime | None = None

    @property
    def count(self) -> int:
        return sum(self.by_batch.values())


def merge_summaries(parts: Iterable[RowSummary]) -> RowSummary:
    """Return the totals of several disjoint sets of rows."""
    by_batch: dict[str, int] = {}
    types: dict[str, int] = {}
    offsets: dict[str, tuple[int, int]] = {}
    digest, times = RowSummary().digest, list[datetime]()
    for part in parts:
        by_batch = _sums(by_batch, part.by_batch)
        types = _sums(types, part.types)
        digest = _digest_sum(digest, part.digest)
        times += [time for time in (part.first, part.last) if time is not None]
        for name, (first, last) in part.offsets.items():
            low, high = offsets.get(name, (first, last))
            offsets[name] = min(low, first), max(high, last)
    return RowSummary(by_batch, digest, types, offsets, min(times, default=None), max(times, default=None))


def _sums(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in sorted({*left, *right})}


def row_digest(high: int, low: int) -> str:
    """Return the digest of a set of rows: sums of the high and the low 64 bits of the digests of its rows."""
    return f"{high % _HALF:016x}{low % _HALF:016x}"


def _digest_sum(left: str, right: str) -> str:
    return row_digest(int(left[:16], 16) + int(right[:16], 16), int(left[16:], 16) + int(right[16:], 16))


@dataclass(frozen=True, slots=True)
class ExpiredData:
    """Data of an hour that retention removed or is removing. It is recorded before anything is deleted.

    Late events still add to an expired hour.
    """

    expired_batches: tuple[str, ...] = ()
    """Batches whose rows are no longer in any Parquet file, sorted."""
    expired_rows: int = 0
    """Number of rows of those batches."""
    rows_expired_at: datetime | None = None
    """When rows last expired."""
    event_json_expired_through: datetime | None = None
    """JSON objects of batches up to this batch time are deleted, or are being deleted."""
    event_json_expired_at: datetime | None = None
    """When JSON objects last expired."""

    def __bool__(self) -> bool:
        return bool(self.expired_batches) or self.event_json_expired_through is not None

    def has_expired_event_json_of(self, batch_time: datetime) -> bool:
        """Return True if the JSON objects of a batch of this time are expired."""
        return self.event_json_expired_through is not None and batch_time <= self.event_json_expired_through

    def __str__(self) -> str:
        removed = []
        if self.rows_expired_at:
            batches = f"{self.expired_rows} events in {len(self.expired_batches)} batches"
            removed.append(f"the Parquet of {batches} on {_to_minute(self.rows_expired_at)}")
        if self.event_json_expired_at and self.event_json_expired_through:
            through = _to_minute(self.event_json_expired_through)
            removed.append(f"the JSON objects of batches up to {through} on {_to_minute(self.event_json_expired_at)}")
        return f"retention removed {' and '.join(removed) or 'nothing'}"


def _to_minute(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%MZ}"


@dataclass(frozen=True, slots=True)
class ArchiveRevision:
    """Content of an hour archive. A revision is immutable; the first executor to write the next number wins."""

    hour: str
    number: int
    """1 for the first revision."""
    files: tuple[ArchiveFile, ...]
    batches: tuple[str, ...]
    """All batches whose rows are in the files, sorted. Later revisions contain them too, unless they expire."""
    rows: int
    digest: str
    """See `RowSummary.digest`."""
    types: Mapping[str, int]
    offsets: Mapping[str, tuple[int, int]]
    first: datetime | None
    """Earliest event time. None if there are no rows."""
    last: datetime | None
    time: datetime
    """When the revision was made."""
    added: int
    """Number of rows minus the number of the previous revision."""
    rebuilt: int = 0
    """Rows that were rebuilt from JSON objects because their Parquet file was missing or damaged."""
    expired: ExpiredData = ExpiredData()

    @property
    def known_batches(self) -> frozenset[str]:
        """Return all batches whose parts no longer count: their rows are in the files, or expired."""
        return frozenset((*self.batches, *self.expired.expired_batches))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(file.key for file in self.files)


@dataclass(frozen=True, slots=True)
class RevisionOrigin:
    """When a revision was made, and from what."""

    time: datetime
    rebuilt: int = 0
    """See `ArchiveRevision.rebuilt`."""


def next_revision(
    previous: ArchiveRevision | None, hour: str, files: Sequence[ArchiveFile], rows: RowSummary, origin: RevisionOrigin
) -> ArchiveRevision:
    """Return the revision after `previous`. `rows` describes the content of `files`, at least one row."""
    if rows.first is None or rows.last is None:
        raise ValueError(f"{hour}: expected at least one row in the archive, found none")
    return ArchiveRevision(
        hour=hour,
        number=next_number(previous),
        files=tuple(files),
        batches=tuple(sorted(rows.by_batch)),
        rows=rows.count,
        digest=rows.digest,
        types=rows.types,
        offsets=rows.offsets,
        first=rows.first,
        last=rows.last,
        time=origin.time,
        added=rows.count - (previous.rows if previous else 0),
        rebuilt=origin.rebuilt,
        expired=previous.expired if previous else ExpiredData(),
    )


def with_expired_rows(previous: ArchiveRevision, at: datetime) -> ArchiveRevision:
    """Return the revision after `previous` without any file: all rows of the hour expire."""
    expired = replace(
        previous.expired,
        expired_batches=tuple(sorted(previous.known_batches)),
        expired_rows=previous.expired.expired_rows + previous.rows,
        rows_expired_at=at,
    )
    return replace(
        previous,
        number=previous.number + 1,
        files=(),
        batches=(),
        rows=0,
        digest=RowSummary().digest,
        types={},
        offsets={},
        first=None,
        last=None,
        time=at,
        added=-previous.rows,
        rebuilt=0,
        expired=expired,
    )


def with_expired_event_json(previous: ArchiveRevision, through: datetime, at: datetime) -> ArchiveRevision:
    """Return the revision after `previous` with the same files: JSON objects of batches up to `through` expire."""
    expired = replace(previous.expired, event_json_expired_through=through, event_json_expired_at=at)
    return replace(previous, number=previous.number + 1, time=at, added=0, rebuilt=0, expired=expired)


def next_number(previous: ArchiveRevision | None) -> int:
    return previous.number + 1 if previous else 1


def same_content(left: ArchiveRevision, right: ArchiveRevision) -> bool:
    """Return True if the revisions differ at most in their time. Two executors may make the same revision."""
    return replace(left, time=right.time) == right


def start_of_hour(hour: str) -> datetime:
    """Return the first instant of the hour. Raises ValueError if the text is not an hour."""
    require_hour(hour)
    return datetime.fromisoformat(f"{hour}:00+00:00")


def end_of_hour(hour: str) -> datetime:
    """Return the start of the next hour, at most the end of year 9999. Raises ValueError if the text is not an hour."""
    start = start_of_hour(hour)
    return start + min(timedelta(hours=1), datetime.max.replace(tzinfo=UTC) - start)
