"""One archived hour: its revisions in the ledger, and the marker `_SUCCESS.json` that readers without our code follow. Values only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from analytics_defs.core.storage.object_keys import hour_path
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import Contradiction

_FORMAT = 1
_HALF = 1 << 64


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One Parquet file of a compacted hour."""

    key: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Rows:
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


def together(parts: Iterable[Rows]) -> Rows:
    """Several sets of rows as one."""
    by_batch: dict[str, int] = {}
    types: dict[str, int] = {}
    offsets: dict[str, tuple[int, int]] = {}
    digest, times = Rows().digest, list[datetime]()
    for part in parts:
        by_batch = _sums(by_batch, part.by_batch)
        types = _sums(types, part.types)
        digest = _digest_sum(digest, part.digest)
        times += [time for time in (part.first, part.last) if time is not None]
        for name, (first, last) in part.offsets.items():
            low, high = offsets.get(name, (first, last))
            offsets[name] = min(low, first), max(high, last)
    return Rows(by_batch, digest, types, offsets, min(times, default=None), max(times, default=None))


def _sums(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}


def digest_of(high: int, low: int) -> str:
    """Of the sums of the halves of the rows' own digests."""
    return f"{high % _HALF:016x}{low % _HALF:016x}"


def _digest_sum(one: str, other: str) -> str:
    return digest_of(int(one[:16], 16) + int(other[:16], 16), int(one[16:], 16) + int(other[16:], 16))


@dataclass(frozen=True, slots=True)
class Taken:
    """What retention took of an hour, or is taking: noted before anything is deleted. Such an hour is frozen: late events add to it."""

    batches: tuple[str, ...] = ()
    """Batches whose rows are in no Parquet any more, sorted."""
    rows: int = 0
    """How many rows those were."""
    rows_at: datetime | None = None
    """When rows were taken last."""
    objects_through: datetime | None = None
    """JSON objects of batches up to this batch time are gone, or go."""
    objects_at: datetime | None = None
    """When objects were taken last."""

    def __bool__(self) -> bool:
        return bool(self.batches) or self.objects_through is not None

    def has_objects_of(self, batch_time: datetime) -> bool:
        """Whether the JSON objects of a batch of this time are among what was taken."""
        return self.objects_through is not None and batch_time <= self.objects_through

    def __str__(self) -> str:
        said = []
        if self.rows_at:
            said.append(f"the Parquet of {self.rows} events in {len(self.batches)} batches on {self.rows_at:%Y-%m-%dT%H:%MZ}")
        if self.objects_at and self.objects_through:
            said.append(f"the JSON objects of batches up to {self.objects_through:%Y-%m-%dT%H:%MZ} on {self.objects_at:%Y-%m-%dT%H:%MZ}")
        return f"retention took {' and '.join(said) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class Revision:
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
    taken: Taken = Taken()

    @property
    def known(self) -> frozenset[str]:
        """Batches that have no part of their own any more: their rows are in the files, or retention took them."""
        return frozenset((*self.batches, *self.taken.batches))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(each.key for each in self.files)


@dataclass(frozen=True, slots=True)
class Made:
    """How a revision came about."""

    time: datetime
    rebuilt: int = 0
    """See `Revision.rebuilt`."""


def next_revision(before: Revision | None, hour: str, files: Sequence[ArchiveFile], rows: Rows, made: Made) -> Revision:
    """The revision after `before`. `rows` is what the files hold, at least one row."""
    if rows.first is None or rows.last is None:
        raise ValueError(f"{hour}: an archive without a row")
    return Revision(
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
        taken=before.taken if before else Taken(),
    )


def without_rows(before: Revision, at: datetime) -> Revision:
    """The revision after `before` that has none of its files: retention takes them."""
    taken = replace(
        before.taken, batches=tuple(sorted(before.known)), rows=before.taken.rows + before.rows, rows_at=at
    )  # fmt: skip
    none = Rows()
    return Revision(
        before.hour, before.number + 1, (), (), 0, none.digest, {}, {}, None, None, time=at, added=-before.rows, taken=taken
    )  # fmt: skip


def without_objects(before: Revision, through: datetime, at: datetime) -> Revision:
    """The revision after `before`, of the same files, whose JSON objects of batches up to that time retention takes."""
    taken = replace(before.taken, objects_through=through, objects_at=at)
    return replace(before, number=before.number + 1, time=at, added=0, rebuilt=0, taken=taken)


def next_number(before: Revision | None) -> int:
    return before.number + 1 if before else 1


def same(one: Revision, other: Revision) -> bool:
    """Whether two executors made the same revision, at whatever time."""
    return replace(one, time=other.time) == other


def end_of_hour(hour: str) -> datetime:
    hour_path(hour)
    return datetime.fromisoformat(f"{hour}:00+00:00") + timedelta(hours=1)


# The marker.


def marker(revision: Revision, complete: bool | None) -> bytes:
    """`_SUCCESS.json`. The same arguments give the same bytes.

    `complete`: every partition's head had passed the hour. None where Kafka could not be asked.
    """
    document = {
        "format": _FORMAT,
        "hour": revision.hour,
        "revision": revision.number,
        "complete": complete,
        "rows": revision.rows,
        "types": dict(sorted(revision.types.items())),
        "digest": revision.digest,
        "first": revision.first.isoformat() if revision.first else None,
        "last": revision.last.isoformat() if revision.last else None,
        "offsets": {name: {"first": first, "last": last} for name, (first, last) in sorted(revision.offsets.items())},
        "files": [
            {"name": each.key.rpartition("/")[2], "rows": each.rows, "bytes": each.bytes, "sha256": each.sha256} for each in revision.files
        ],
        "batches": sorted(revision.known),
        "made_at": iso_milliseconds(revision.time),
        "rows_from_json": revision.rebuilt,
    }
    if revision.taken:
        document["frozen"] = _frozen(revision.taken)
    return (json.dumps(document, indent=1) + "\n").encode()


def _frozen(taken: Taken) -> dict[str, Any]:
    """What is no longer there. Its batches are among the marker's: a part of one that comes back is not to be read."""
    return {
        "rows": taken.rows,
        "batches": len(taken.batches),
        "rows_at": iso_milliseconds(taken.rows_at) if taken.rows_at else None,
        "json_objects_through": iso_milliseconds(taken.objects_through) if taken.objects_through else None,
        "json_objects_at": iso_milliseconds(taken.objects_at) if taken.objects_at else None,
    }


@dataclass(frozen=True, slots=True)
class Marked:
    """What a marker says of itself."""

    revision: int
    complete: bool | None


def marked(data: bytes, where: str) -> Marked:
    """Raises Contradiction, naming `where`, where the bytes are no marker of ours."""
    try:
        document: dict[str, Any] = json.loads(data)
        return Marked(int(document["revision"]), document["complete"])
    except (ValueError, KeyError, TypeError) as error:
        raise Contradiction(f"{where} is no marker of ours ({type(error).__name__}: {error}). Remove it; it is written again.") from error


def supersedes(held: bytes | None, revision: int, complete: bool | None, where: str) -> bool:
    """Whether a marker of this revision may replace what is there. It never goes back, so no late riser names files that are gone."""
    if held is None:
        return True
    there = marked(held, where)
    return there.revision < revision or (there.revision == revision and there.complete is not complete and there.complete is not True)
