"""What the flows need from outside. Each port has one real adapter and one memory double, held to the same contract by `tests/`.

Every call may raise `Unavailable` (retryable; whether it took effect is unknown, so every call may be repeated) or `AccessDenied`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from analytics_defs.core.counter_adjustments import Adjustment, CounterItem
from analytics_defs.core.events.event import Event
from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ArchiveRevision, RowSummary
from analytics_defs.core.hours.statistics import ProductStats
from analytics_defs.core.ledger import Batch, BatchRecord, ClosedRange, Gap, Lease, LedgerSnapshot, PlatformId, TopicState
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.errors import AnalyticsError

T = TypeVar("T")

RECENT_EVENTS_TTL = timedelta(days=30)
"""How long RecentEvents holds an item after its batch's time."""

DEDUPLICATION_WINDOW = RECENT_EVENTS_TTL - timedelta(days=1)
"""The horizon of deduplication: how long after its batch's time an id is refused to other sources.

It ends a day before DynamoDB may delete the item: whether that has happened must not decide what a batch finds that several executors
work on, one after the other.
"""


def may_have_been_reused(hour: str, batch_time: datetime) -> bool:
    """Whether an id of an event of this hour, stored at this time, may have been stored in the same hour before, and be free again.

    No batch stores an event more than a day before its time; another day is to spare. So of two events of one id in one hour the later
    stored one is always such a one, whoever works on it.
    """
    return batch_time - datetime.fromisoformat(f"{hour}:00+00:00") >= DEDUPLICATION_WINDOW - timedelta(days=2)


MAX_TRANSACT_READS = 25
"""Counter items of one isolated reading. DynamoDB takes 100 (AWS, "Quotas in Amazon DynamoDB"), moto and older servers 25."""


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as the broker has it now."""

    name: str
    partitions: tuple[int, ...]
    topic_id: str | None
    """None where the broker does not tell it."""


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Offsets of one topic-partition: `low <= stable <= high`."""

    log_start_offset: int
    """The oldest offset that is still there (or will be written next, in an empty partition)."""
    last_stable_offset: int
    """The last stable offset: a committed reader sees nothing from here on."""
    high_watermark: int
    """The uncommitted high watermark: lag is counted to here."""


@dataclass(frozen=True, slots=True)
class PartitionWatermarks:
    """Watermarks of many partitions at one moment: each is in one of the two."""

    watermarks: Mapping[TopicPartition, Watermarks]
    unavailable: Mapping[TopicPartition, AnalyticsError]
    """Partitions that gave no answer though others did: they have no leader, or it is out of reach. It may pass by itself."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a committed reader found."""

    records: tuple[Record, ...]
    """Sorted by source."""
    ends: Mapping[TopicPartition, int]
    """For each of the ranges asked for: how far it was read. `start` where nothing was, never beyond `end`."""
    lost: tuple[Range, ...]
    """Offsets inside `[start, ends)` that retention removed, seen as the broker's low watermark."""
    errors: Mapping[TopicPartition, AnalyticsError] = field(default_factory=dict)
    """Partitions that cannot be read beyond their `ends`, and why: asking again does not help, a person has to. The others went on."""


class EventLog(Protocol):
    """Kafka. Used by one thread at a time."""

    def topics(self, names: Sequence[str]) -> Mapping[str, TopicDescription]:
        """The topics that exist, by name. A name that is not there is not in the answer."""
        ...

    def watermarks(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Watermarks]:
        """Of all of them. Raises the fault of the first that gives no answer."""
        ...

    def available_watermarks(self, partitions: Iterable[TopicPartition]) -> PartitionWatermarks:
        """The same of those that answer. Raises Unavailable where none does."""
        ...

    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult:
        """Read committed records of the ranges, until all are read or `admit` refuses one (which is then not part of the reading).

        A record batch that is damaged ends its own range, before it, with a fault in the reading.
        Within a partition records come to `admit` in the order of offsets. Offsets without a record are passed over and count as read.
        Reading on from the ends of the last reading is cheap; reading from anywhere else is right as well.
        """
        ...

    def explain_gaps(self, holes: Sequence[Range]) -> tuple[Gap, ...]:
        """Why these offsets gave no record. Only what evidence was found for; the rest is missing in the answer.

        Raises Unavailable where a fresh reader does find a committed record: the first reading was wrong, the batch has to be read again.
        """
        ...

    def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        """The group's offsets (next to read), None where there is none."""
        ...

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the group's offsets, forwards or backwards. Raises ConsumerGroupActive while a consumer is a member of the group."""
        ...


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What became of the events of one claim. Whoever is not refused holds its id."""

    duplicates: Mapping[Source, Source]
    """For each refused event's source, the source that holds the id."""
    pointers: frozenset[Source]
    """Claimed events whose item points to the JSON object, because DynamoDB cannot hold their data."""


class RecentEvents(Protocol):
    """The table of recent events. Thread-safe."""

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        """Write each event unless another source holds its id.

        Ids are distinct within a call. An event already held by its own source is written again, byte for byte. An id whose holder's
        batch is `REMEMBERED` or longer before `batch_time` is free.
        """
        ...

    def get_items(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        """The items of these ids, strongly consistent, as far as they are there."""
        ...


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An item of the table of recent events, as a reader sees it."""

    id: str
    type: str
    timestamp: str
    source: Source
    created_at: str
    ttl: int
    """Epoch seconds. TTL deletes late: readers treat an item past it as gone."""
    data: object
    """JSON values, numbers as Decimal; None where the item points to the event's JSON object."""

    def is_outside_deduplication_window(self, batch_time: datetime) -> bool:
        """Whether a batch of this time claims the id although the item is there."""
        return self.ttl <= int((batch_time + RECENT_EVENTS_TTL - DEDUPLICATION_WINDOW).timestamp())


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object to write. The same key always comes with the same bytes (invariant 2)."""

    key: str
    body: bytes
    content_type: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What an object is, without its bytes."""

    bytes: int
    metadata: Mapping[str, str]
    """Names in lower case."""


class ObjectStore(Protocol):
    """The bucket. Thread-safe."""

    def put(self, blobs: Sequence[StoredObject]) -> None:
        """Write all of them, in any order, overwriting. Returns when every one is confirmed; raises when one is not."""
        ...

    def put_many_if_absent(self, blobs: Sequence[StoredObject]) -> Sequence[StoredObject]:
        """Like `put`, and none is written over what is there; answers what lies under the keys that were taken before, names of metadata
        in lower case.
        """
        ...

    def put_if_absent(self, blob: StoredObject) -> bytes:
        """Write unless the key exists; answer the bytes that the key holds from now on, ours or those of whoever was first."""
        ...

    def get(self, key: str) -> bytes | None: ...

    def get_object(self, key: str) -> StoredObject | None:
        """The object with its content type and its metadata, whose names come in lower case."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Size and metadata of the object. It costs a request, and no byte of the object."""
        ...

    def download(self, key: str, path: str) -> bool:
        """Write the object into a local file, piece by piece. False, and no file, where it is not there."""
        ...

    def upload(self, key: str, path: str, content_type: str) -> None:
        """Write an object from a local file, piece by piece, overwriting. Seen whole or not at all."""
        ...

    def put_if(self, blob: StoredObject, over: Callable[[bytes | None], bool]) -> bool:
        """Write over what the key holds (None: nothing) if `over` says so of it; False where it does not.

        Between the look and the write nobody else's write is lost: then `over` is asked again.
        """
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Whatever is not there is no error."""
        ...

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Keys below the prefix, in their order."""
        ...


class Ledger(Protocol):
    """The durable account. Every change is one transaction; False means the condition did not hold and nothing was changed. Thread-safe."""

    def snapshot(self) -> LedgerSnapshot: ...

    def register_platform_id(self, seal: PlatformId) -> PlatformId:
        """Put the seal where there is none, or its mark where that one is there without; answer the one that counts."""
        ...

    def open_topic(self, topic: TopicState) -> TopicState:
        """Put the topic's state unless this generation has one; answer the one that counts."""
        ...

    def begin_batch(self, batch: Batch) -> bool:
        """Every range's head from idle at `start` (or from not being there) to pending, and the batch's entry."""
        ...

    def pending_batch(self, batch_id: str) -> Batch | None: ...

    def mark_staged(self, batch_id: str, digest: str) -> bool:
        """Note that the staging file decides, if the batch is still pending. Repeating is fine.

        Raises InconsistentState where another digest was noted before.
        """
        ...

    def close_batch(self, record: BatchRecord) -> bool:
        """Heads from pending to idle at `end`, their totals, the batch's record, the counters, the marks of its hours.

        Raises InconsistentState where a record was redriven before, or is named twice in this redrive.
        """
        ...

    def batch_record(self, batch_id: str) -> BatchRecord | None: ...

    def closed_range_at(self, source: Source) -> ClosedRange | None:
        """The closed range that holds the source."""
        ...

    def closed_ranges_after(self, topic_partition: TopicPartition, offset: int, limit: int) -> Sequence[ClosedRange]:
        """Closed ranges that end after the offset, in order."""
        ...

    def last_batches(self, limit: int) -> Sequence[BatchRecord]:
        """The newest records by batch time, newest first."""
        ...

    def batch_records_from(self, batch_id: str) -> Iterator[BatchRecord]:
        """Records of batches with this id or a later one, in the order of their ids. One whose close is under way may be among them."""
        ...

    def batches_of_day(self, day: str) -> Iterator[BatchRecord]:
        """Records of batches whose time lies in the UTC day `YYYY-MM-DD`, oldest first."""
        ...

    def batches_of_hour(self, hour: str) -> Sequence[str]:
        """Ids of the closed batches that stored events of this hour, in their order."""
        ...

    def latest_revision(self, hour: str) -> ArchiveRevision | None:
        """The newest revision of the hour's archive."""
        ...

    def put_revision(self, revision: ArchiveRevision) -> ArchiveRevision:
        """Put the revision unless its number is taken; answer the one that has the number."""
        ...

    def dead_letter_expiry(self) -> DeadLetterExpiry | None:
        """Up to where retention took the files of dead letters and repeats. None: it took none."""
        ...

    def expire_dead_letters(self, taken: DeadLetterExpiry) -> DeadLetterExpiry:
        """Note that it takes them up to there, unless that is noted or more; answer what is noted."""
        ...

    def redriven_by(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        """Those of the sources that were redriven, with the batch that did."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Totals over all lanes; the names are those of `core.ingest.batch_accounting.counter_increments`."""
        ...

    def counters_by_lane(self) -> Mapping[int, Mapping[str, int]]:
        """The same, lane by lane. Only those of `REDRIVE_LANE` and `ADJUSTMENT_LANE` may go down."""
        ...

    def read_counters_atomically(self, items: Sequence[CounterItem]) -> Mapping[CounterItem, Mapping[str, int]]:
        """What at most `AT_ONCE` counter items, all distinct, hold at one moment, without their adjustments. Of each close they show
        all or nothing, and all of it where its record was seen before. An item that is not there is empty.
        """
        ...

    def counter_items(self) -> Sequence[CounterItem]:
        """The counter items that are there, sorted."""
        ...

    def adjustments(self) -> Sequence[Adjustment]:
        """All that were made, those of one item in the order of their numbers."""
        ...

    def put_adjustment(self, adjustment: Adjustment) -> Adjustment:
        """Put the adjustment unless its number is taken; answer the one that has the number. All counters show it from then on.

        Raises InconsistentState where none stands before it.
        """
        ...

    def hourly_counters(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        """Counters of the hours `first..last` (both included), over all lanes."""
        ...

    def renew_lease(self, lease: Lease) -> None: ...

    def release_lease(self, run_id: str) -> None: ...


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware UTC."""
        ...

    def elapsed_ms(self) -> int:
        """Milliseconds of a clock that never jumps, for durations."""
        ...

    def sleep(self, duration: timedelta) -> None: ...


class TaskPool(Protocol):
    def run_all(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run all jobs, side by side where there are threads; wait for every one; answers in the order of the jobs.

        Raises the first failure, with the others as notes, after the last job ended.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    event_log: EventLog
    recent_events: RecentEvents
    object_store: ObjectStore
    ledger: Ledger
    clock: Clock
    task_pool: TaskPool
    table_names: tuple[str, ...] = ()
    """Names of the tables beside the ledger's own: recent events, counters."""


@dataclass(frozen=True, slots=True)
class MergedFile:
    """One of the files that a merge wrote."""

    path: str
    rows: int
    bytes: int
    sha256: str


class ParquetWorkspace(Protocol):
    """Work on Parquet files of one job, in a local folder of its own, in bounded memory. Used by one thread.

    Paths are those that `path` and `put` answered. Rows are those of `core.storage.event_parquet`.
    """

    def path(self, name: str) -> str:
        """Where a file of this name is to be put. Names may hold slashes."""
        ...

    def put(self, name: str, data: bytes) -> str: ...

    def summarize(self, paths: Sequence[str]) -> Mapping[str, RowSummary | None]:
        """What each file holds. None where it is no file of ours, or damaged: every column of every row is read."""
        ...

    def merge(self, paths: Sequence[str], name: str, max_bytes: int) -> Sequence[MergedFile]:
        """All rows by timestamp, id and source, in files that are cut when they pass `max_bytes`. The same rows give the same bytes."""
        ...


@dataclass(frozen=True, slots=True)
class HourCounts:
    """What the rows of an hour amount to."""

    minutes: Mapping[tuple[int, str], int]
    """Events by minute of the hour (0 to 59) and type."""
    products: int
    sellers: int
    first: datetime | None
    last: datetime | None


class StatisticsEngine(ParquetWorkspace, Protocol):
    """A table that computes statistics of rows, exactly, in bounded memory."""

    def count_rows(self, paths: Sequence[str]) -> HourCounts: ...

    def write_product_stats(self, paths: Sequence[str], name: str) -> str:
        """A file of `core.hours.statistics.ProductStats`, by product id. Answers its path."""
        ...

    def write_product_activity(self, paths: Sequence[str], name: str) -> str:
        """The same over several such files in the order of their time: what changed between two of them counts as well."""
        ...

    def count_products_and_sellers(self, path: str) -> tuple[int, int]:
        """Products and sellers in a file of `ProductStats`."""
        ...

    def top_products(self, path: str, limit: int) -> Sequence[ProductStats]:
        """Those with the most events in a file of `ProductStats`; by id where there are as many."""
        ...

    def read_rows(self, paths: Sequence[str], batch_id: str | None = None) -> Iterator[Sequence[StoredRow]]:
        """All rows, or those of one batch; batch by batch, some at a time. To be read to the end before the table does anything else."""
        ...


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of an archive, as far as it makes an event again."""

    source: Source
    payload: bytes
    record_timestamp_ms: int
    """-1 where it is not known."""
    batch_id: str
