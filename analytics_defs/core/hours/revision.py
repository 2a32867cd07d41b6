"""One archived hour: its revisions in the ledger, and the marker `_SUCCESS.json` that readers without our code follow. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from analytics_defs.core.storage.object_keys import hour_path

_HALF = 1 << 64


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One Parquet file of a compacted hour."""

    key: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RowSummary:
    """What a set of rows amounts to, in whichever order and in however many files they lie."""

    by_batch: Mapping[str, int] = field(default_factory=dict)
    digest: str = "0" * 32
    """Of all columns but `record_timestamp`, which a rebuild from the JSON tree does not know. In any order; for accidents, not foes."""
    types: Mapping[str, int] = field(default_factory=dict)
    offsets: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """First and last offset by topic-partition, both included."""
    first: datetime | None = None
    last: datetime | None = None

    @property
    def count(self) -> int:
        return sum(self.by_batch.values())


def merge_summaries(parts: Iterable[RowSummary]) -> RowSummary:
    """Several sets of rows as one."""
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


def _sums(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}


def row_digest(high: int, low: int) -> str:
    """Of the sums of the halves of the rows' own digests."""
    return f"{high % _HALF:016x}{low % _HALF:016x}"


def _digest_sum(one: str, other: str) -> str:
    return row_digest(int(one[:16], 16) + int(other[:16], 16), int(one[16:], 16) + int(other[16:], 16))


@dataclass(frozen=True, slots=True)
class ExpiredData:
    """What retention took of an hour, or is taking: noted before anything is deleted. Such an hour is frozen: late events add to it."""

    expired_batches: tuple[str, ...] = ()
    """Batches whose rows are in no Parquet any more, sorted."""
    expired_rows: int = 0
    """How many rows those were."""
    rows_expired_at: datetime | None = None
    """When rows were taken last."""
    event_json_expired_through: datetime | None = None
    """JSON objects of batches up to this batch time are gone, or go."""
    event_json_expired_at: datetime | None = None
    """When objects were taken last."""

    def __bool__(self) -> bool:
        return bool(self.expired_batches) or self.event_json_expired_through is not None

    def has_expired_event_json_of(self, batch_time: datetime) -> bool:
        """Whether the JSON objects of a batch of this time are among what was taken."""
        return self.event_json_expired_through is not None and batch_time <= self.event_json_expired_through

    def __str__(self) -> str:
        said = []
        if self.rows_expired_at:
            said.append(
                f"the Parquet of {self.expired_rows} events in {len(self.expired_batches)} batches on {self.rows_expired_at:%Y-%m-%dT%H:%MZ}"
            )
        if self.event_json_expired_at and self.event_json_expired_through:
            said.append(
                f"the JSON objects of batches up to {self.event_json_expired_through:%Y-%m-%dT%H:%MZ} on {self.event_json_expired_at:%Y-%m-%dT%H:%MZ}"
            )
        return f"retention took {' and '.join(said) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class ArchiveRevision:
    """What an hour's archive is from this revision on: written once, under the next number, by whoever is first. Never changed."""

    hour: str
    number: int
    """1 for the first."""
    files: tuple[ArchiveFile, ...]
    batches: tuple[str, ...]
    """Every batch whose rows are in the files, sorted. A later revision holds at least these, unless retention took them."""
    rows: int
    digest: str
    """See `Rows.digest`."""
    types: Mapping[str, int]
    offsets: Mapping[str, tuple[int, int]]
    first: datetime | None
    """None: there is no row."""
    last: datetime | None
    time: datetime
    """When it was made."""
    added: int
    """Rows more than the revision before."""
    rebuilt: int = 0
    """Rows that came from the JSON tree, because the file that should have held them was missing or damaged."""
    expired: ExpiredData = ExpiredData()

    @property
    def known_batches(self) -> frozenset[str]:
        """Batches that have no part of their own any more: their rows are in the files, or retention took them."""
        return frozenset((*self.batches, *self.expired.expired_batches))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(each.key for each in self.files)


@dataclass(frozen=True, slots=True)
class RevisionOrigin:
    """How a revision came about."""

    time: datetime
    rebuilt: int = 0
    """See `Revision.rebuilt`."""


def next_revision(
    before: ArchiveRevision | None, hour: str, files: Sequence[ArchiveFile], rows: RowSummary, made: RevisionOrigin
) -> ArchiveRevision:
    """The revision after `before`. `rows` is what the files hold, at least one row."""
    if rows.first is None or rows.last is None:
        raise ValueError(f"{hour}: an archive without a row")
    return ArchiveRevision(
        hour=hour,
        number=next_number(before),
        files=tuple(files),
        batches=tuple(sorted(rows.by_batch)),
        rows=rows.count,
        digest=rows.digest,
        types=rows.types,
        offsets=rows.offsets,
        first=rows.first,
        last=rows.last,
        time=made.time,
        added=rows.count - (before.rows if before else 0),
        rebuilt=made.rebuilt,
        expired=before.expired if before else ExpiredData(),
    )


def with_expired_rows(before: ArchiveRevision, at: datetime) -> ArchiveRevision:
    """The revision after `before` that has none of its files: retention takes them."""
    taken = replace(
        before.expired, expired_batches=tuple(sorted(before.known_batches)), expired_rows=before.expired.expired_rows + before.rows, rows_expired_at=at
    )  # fmt: skip
    none = RowSummary()
    return ArchiveRevision(
        before.hour, before.number + 1, (), (), 0, none.digest, {}, {}, None, None, time=at, added=-before.rows, expired=taken
    )  # fmt: skip


def with_expired_event_json(before: ArchiveRevision, through: datetime, at: datetime) -> ArchiveRevision:
    """The revision after `before`, of the same files, whose JSON objects of batches up to that time retention takes."""
    taken = replace(before.expired, event_json_expired_through=through, event_json_expired_at=at)
    return replace(before, number=before.number + 1, time=at, added=0, rebuilt=0, expired=taken)


def next_number(before: ArchiveRevision | None) -> int:
    return before.number + 1 if before else 1


def same_content(one: ArchiveRevision, other: ArchiveRevision) -> bool:
    """Whether two executors made the same revision, at whatever time."""
    return replace(one, time=other.time) == other


def end_of_hour(hour: str) -> datetime:
    hour_path(hour)
    return datetime.fromisoformat(f"{hour}:00+00:00") + timedelta(hours=1)
