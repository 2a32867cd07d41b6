"""Is it well? What is known of the services and of the work, and the verdict on it. Values and pure functions only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from analytics_defs.core.ledger import BatchRecord, Snapshot
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.plan import Lag, Planning, Seen

T_co = TypeVar("T_co", covariant=True)

KAFKA, DYNAMODB, S3 = SERVICES = ("kafka", "dynamodb", "s3")
DAEMON_SILENT_AFTER = timedelta(minutes=2)
"""Dagster's daemon writes a heartbeat every 30 s."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T_co]):
    """What one question brought so far. Asking goes on in the background; this is how it stands at one moment."""

    value: T_co | None = None
    """Of the newest attempt that succeeded; None where none did."""
    error: str | None = None
    """Why the newest attempt failed, or that it does not come back. None: it succeeded."""
    latency_ms: int | None = None
    """Of the newest attempt that came back."""
    age_ms: int | None = None
    """Since the newest attempt came back. None: none did yet."""
    succeeded_at: datetime | None = None
    """When `value` was true."""

    @property
    def ok(self) -> bool:
        return self.error is None and self.succeeded_at is not None


@dataclass(frozen=True, slots=True)
class View:
    """What Kafka said, and what the ledger had said shortly before."""

    snapshot: Snapshot | None
    """None where the ledger never answered."""
    topics: Mapping[str, Seen | None]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the ledger counted."""

    lanes: Mapping[int, Mapping[str, int]]
    """Totals by lane; the names are those of `core.counting.totals`."""
    hours: Mapping[str, Mapping[str, int]]
    """Counters of the last 24 hours that have any."""
    batches: Sequence[BatchRecord]
    """The newest ones, newest first."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The oldest committed record that was not read yet, in each partition that has one."""

    since: Mapping[TopicPartition, datetime]
    """The record's own timestamp, where it carries one."""
    retention: Mapping[str, timedelta | None]
    """By topic: how long the broker keeps a record; None where it does not tell, `timedelta.max` where it keeps everything."""


@dataclass(frozen=True, slots=True)
class Scheduler:
    """What Dagster's instance says of those who start the runs."""

    sensor_stopped: bool
    heartbeat: datetime | None
    """The newest sign of life of the daemon that evaluates sensors; None where there never was one."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Since when the heads stand where they stand although something waits."""

    position: int
    """Sum of the heads' `next`."""
    since: datetime


def progressed(before: Progress | None, lags: Sequence[Lag], now: datetime) -> Progress | None:
    """None where nothing waits. It remembers within one process only: after a restart the time counts from then."""
    position = sum(lag.next for lag in lags)
    if not any(lag.offsets for lag in lags):
        return None
    return before if before is not None and before.position == position else Progress(position, now)


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is known at one moment. What every answer, page and metric is made from."""

    at: datetime
    stall_after: timedelta
    kafka: Answer[object] = Answer()
    dynamodb: Answer[Snapshot] = Answer()
    s3: Answer[object] = Answer()
    figures: Answer[Figures] = Answer()
    waiting: Answer[Waiting] = Answer()
    scheduler: Answer[Scheduler] | None = None
    """None: Dagster's instance is not to be asked."""
    planning: Planning | None = None
    """From the newest watermarks and the snapshot before them; None where Kafka does not answer: an old lag is none."""
    progress: Progress | None = None
    version: str = ""
    instance: str = ""
    """Which process answers."""

    @property
    def services(self) -> dict[str, Answer[object]]:
        return {KAFKA: self.kafka, DYNAMODB: self.dynamodb, S3: self.s3}

    @property
    def figures_age_ms(self) -> int | None:
        """Since the ledger was last read, whatever was tried after that."""
        read_at = self.figures.succeeded_at
        return None if read_at is None else max(0, round((self.at - read_at).total_seconds() * 1000))

    @property
    def lags(self) -> Sequence[Lag]:
        return self.planning.lags if self.planning else ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Well, or why not: one sentence for each reason."""

    reasons: tuple[str, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        return not self.reasons


def unready(picture: Picture) -> Verdict:
    """Ready: every service the work needs answers. A fault of ours in the work itself is not looked at."""
    return Verdict(tuple(f"{name}: {each.error or 'no answer yet'}" for name, each in picture.services.items() if not each.ok))


def verdict(picture: Picture) -> Verdict:
    """Healthy: every service answers, and the work gets done."""
    return Verdict((*unready(picture).reasons, *_work(picture)))


def _work(picture: Picture) -> Iterator[str]:
    if picture.planning is not None:
        yield from picture.planning.stopped.values()
        yield from picture.planning.silent.values()
    stuck = picture.at - picture.progress.since if picture.progress else timedelta(0)
    if picture.planning is not None and stuck > picture.stall_after:
        behind, held = sum(lag.offsets for lag in picture.lags), sum(lag.held_back for lag in picture.lags)
        why = f", {held} of them behind an open transaction" if held else ""
        limit = f"STALL_AFTER={_seconds(picture.stall_after)}"
        yield f"stalled: {behind} offsets wait{why}, and nothing was committed for {_seconds(stuck)} ({limit})"
    scheduler = picture.scheduler.value if picture.scheduler and picture.scheduler.ok else None
    if scheduler is not None:
        if scheduler.sensor_stopped:
            yield "the sensor kafka_micro_batches is stopped: no run is asked for"
        if scheduler.heartbeat is None:
            yield "Dagster's sensor daemon never gave a sign of life: no run is asked for"
        elif (silent := picture.at - scheduler.heartbeat) > DAEMON_SILENT_AFTER:
            yield f"Dagster's sensor daemon gave no sign of life for {_seconds(silent)}: no run is asked for"


def lag_seconds(lag: Lag, picture: Picture) -> float | None:
    """Age of the oldest record that waits. 0 where nothing waits; None where it is not known."""
    if not lag.offsets:
        return 0.0
    since = picture.waiting.value.since.get(lag.topic_partition) if picture.waiting.value else None
    return max(0.0, (picture.at - since).total_seconds()) if since else None


def seconds_to_loss(lag: Lag, picture: Picture) -> float | None:
    """Until retention removes the oldest record that waits, by its age. Infinite where none waits or the topic keeps everything.

    None where it is not known. Retention by size can be faster; the lowest offset of the partition tells when it was.
    """
    if not lag.offsets:
        return float("inf")
    retention = picture.waiting.value.retention.get(lag.topic_partition.topic) if picture.waiting.value else None
    age = lag_seconds(lag, picture)
    if retention is None or (age is None and retention != timedelta.max):
        return None
    return float("inf") if retention == timedelta.max else retention.total_seconds() - (age or 0.0)


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():.0f}s"
