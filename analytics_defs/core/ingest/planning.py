"""Plans of runs: pure functions of the state of Kafka and the ledger at one moment."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from analytics_defs.core.ledger import BatchKind, Checkpoint, LedgerSnapshot, TopicState
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.errors import Unavailable

LEASE_DURATION = timedelta(seconds=60)
"""A run is dead if it has not renewed its lease for this long."""


class OnDataLoss(StrEnum):
    """Reaction to records that Kafka's retention removed before they were read."""

    CONTINUE = "continue"
    """Record the exact lost range, count it, and continue."""
    STOP = "stop"
    """Halt the partition until an operator decides."""


@dataclass(frozen=True, slots=True)
class TopicOffsets:
    """State of one topic in Kafka at one moment, by partition."""

    topic: str
    topic_id: str | None
    log_start_offsets: Mapping[int, int]
    last_stable_offsets: Mapping[int, int]
    high_watermarks: Mapping[int, int]
    committed: Mapping[int, int | None]
    """Offset of the consumer group. None if it has none."""
    unavailable: Mapping[int, str] = field(default_factory=dict)
    """Error message of each partition whose leader does not answer. The mappings above do not contain these partitions."""


@dataclass(frozen=True, slots=True)
class PlanningPolicy:
    """Settings of one planning call."""

    lanes: int = 1
    max_offsets: int = 100_000
    """Maximum offsets in the plan of one lane. 100,000 take 75 to 160 s on two cores (measured); starting a run takes about 5 s."""
    on_data_loss: OnDataLoss = OnDataLoss.CONTINUE
    recommit_lanes: Collection[int] = ()
    """Lanes whose checkpoints are all committed again: the offsets of a group without members expire on an idle topic."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Ranges that one run may process in its lane, and unfinished work of earlier runs."""

    lane: int
    ranges: tuple[Range, ...] = ()
    pending_batch_ids: tuple[str, ...] = ()
    """Pending batches to finish before the ranges."""
    recommit: tuple[TopicPartition, ...] = ()
    """Partitions whose group offset must be set to the next offset of the checkpoint."""

    def __bool__(self) -> bool:
        return bool(self.ranges or self.pending_batch_ids or self.recommit)

    @property
    def offsets(self) -> int:
        return sum(map(len, self.ranges))

    def without(self, partitions: Collection[TopicPartition]) -> Plan:
        """Return the plan without the ranges of these partitions."""
        return replace(self, ranges=tuple(range_ for range_ in self.ranges if range_.topic_partition not in partitions))

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits of a hash of lane and start offsets. End offsets are ignored: they change while records arrive."""
        starts = [f"{range_.topic_partition}:{range_.start}" for range_ in self.ranges]
        text = "\n".join([str(self.lane), *starts, *self.pending_batch_ids, *map(str, self.recommit)])
        return sha256_hex(text.encode())[:16]


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """Offsets of one topic-partition in Kafka, the ledger and the group."""

    topic_partition: TopicPartition
    next_offset: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    committed: int | None

    @property
    def offsets(self) -> int:
        """Return the offsets that are not closed yet, up to the high watermark. Transaction markers are included."""
        return max(0, self.high_watermark - self.next_offset)

    @property
    def transaction_lag(self) -> int:
        """Return how many of these offsets are behind an open transaction."""
        return max(0, self.high_watermark - max(self.last_stable_offset, self.next_offset))


@dataclass(frozen=True, slots=True)
class PlanningResult:
    """Plans of all lanes, with the offsets and the problems found on the way."""

    snapshot: LedgerSnapshot
    """The ledger's state that the plans were made from."""
    plans: tuple[Plan, ...]
    """One plan for each lane, in order of lanes. An empty plan is false."""
    lags: tuple[PartitionLag, ...]
    halted: Mapping[TopicPartition, str] = field(default_factory=dict)
    """Message for each partition that waits for a decision of an operator."""
    unavailable: Mapping[TopicPartition, str] = field(default_factory=dict)
    """Message for each partition whose leader does not answer. The lag of these partitions is unknown."""
    notes: tuple[str, ...] = ()
    """Findings for the operator: moved group offsets, missing topics, idle lanes."""


def lane_of(topic_partition: TopicPartition, lanes: int) -> int:
    """Return the lane of a partition. It does not depend on other topics, other partitions or the incarnation."""
    return (zlib.crc32(topic_partition.topic.encode()) + topic_partition.partition) % lanes


def initial_topic_state(offsets: TopicOffsets) -> TopicState:
    """Return the first incarnation of a topic that is new to the ledger.

    A partition starts at the group's offset, or at its oldest record if the group has none. A group offset beyond
    the end of the log belongs to a deleted topic of the same name and is ignored.
    Raises Unavailable if any partition is unavailable: its start offset is unknown.
    """
    if offsets.unavailable:
        raise Unavailable(topic_not_open_message(offsets))
    starts = {}
    for partition, log_start in offsets.log_start_offsets.items():
        committed = offsets.committed.get(partition)
        starts[partition] = committed if committed is not None and committed <= offsets.high_watermarks[partition] else log_start
    return TopicState(offsets.topic, 0, offsets.topic_id, starts)


def topic_not_open_message(offsets: TopicOffsets) -> str:
    return (
        f"topic {offsets.topic} is new to the ledger, and {len(offsets.unavailable)} of its partitions are unavailable. Ingestion starts "
        "once all of its partitions are available, because their start offsets are stored together "
        f"({next(iter(offsets.unavailable.values()))})"
    )


def make_plans(
    snapshot: LedgerSnapshot, topics: Mapping[str, TopicOffsets | None], policy: PlanningPolicy, now: datetime
) -> PlanningResult:
    """Return a plan for each lane. `topics`: all configured topics, None for a topic that Kafka does not have."""
    known = [(offsets, _topic_state(snapshot, offsets)) for offsets in topics.values() if offsets is not None]
    notes = [f"topic {name} does not exist yet" for name, offsets in topics.items() if offsets is None]
    notes += [topic_not_open_message(offsets) for offsets, state in known if state is None]
    planner = _Planner(snapshot, policy, notes)
    for offsets, state in known:
        if state is not None:
            planner.add_topic(offsets, state)
    return planner.result(now)


@dataclass(slots=True)
class _Planner:
    """Collects plans and findings, topic by topic."""

    snapshot: LedgerSnapshot
    policy: PlanningPolicy
    notes: list[str]
    lags: list[PartitionLag] = field(default_factory=list)
    halted: dict[TopicPartition, str] = field(default_factory=dict)
    unavailable: dict[TopicPartition, str] = field(default_factory=dict)
    ranges: defaultdict[int, list[Range]] = field(default_factory=lambda: defaultdict(list))
    recommit: defaultdict[int, list[TopicPartition]] = field(default_factory=lambda: defaultdict(list))

    def add_topic(self, offsets: TopicOffsets, state: TopicState) -> None:
        for partition, error in offsets.unavailable.items():
            topic_partition = state.partition(partition)
            self.unavailable[topic_partition] = f"{topic_partition} is unavailable, the other partitions continue: {error}"
        self.halted |= _unreadable_partitions(self.snapshot, state, offsets)
        for partition in sorted(offsets.log_start_offsets):
            if state.partition(partition) not in self.halted:
                self._add_partition(offsets, state, partition)

    def _add_partition(self, offsets: TopicOffsets, state: TopicState, partition: int) -> None:
        is_open = offsets.topic in self.snapshot.topics
        checkpoint = self.snapshot.checkpoint(state.partition(partition)) if is_open else _first_checkpoint(state, partition)
        lag = _lag(checkpoint, offsets, partition)
        self.lags.append(lag)
        error = recreation_message(state, offsets, checkpoint, partition)
        if error is None and self.policy.on_data_loss is OnDataLoss.STOP:
            error = data_loss_message(checkpoint, lag)
        if error is not None:
            self.halted[checkpoint.topic_partition] = error
        elif checkpoint.pending_batch_id is None:
            self._add_range(checkpoint, lag)

    def _add_range(self, checkpoint: Checkpoint, lag: PartitionLag) -> None:
        topic_partition, start = checkpoint.topic_partition, checkpoint.next_offset
        lane = lane_of(topic_partition, self.policy.lanes)
        is_stored = topic_partition in self.snapshot.checkpoints
        end = max(lag.last_stable_offset, min(lag.log_start_offset, lag.high_watermark))
        if end > start:
            self.ranges[lane].append(Range(topic_partition, start, end))
        elif is_stored and (lane in self.policy.recommit_lanes or lag.committed != start):
            self.recommit[lane].append(topic_partition)
        if is_stored and lag.committed not in (None, start):
            self.notes.append(f"{topic_partition}: the group's offset is {lag.committed}, the ledger's {start}: the ledger decides")

    def result(self, now: datetime) -> PlanningResult:
        partitions = len(self.lags) + len(self.halted) + len(self.unavailable)
        if self.lags and self.policy.lanes > partitions:
            self.notes.append(f"LANES={self.policy.lanes}, but there are only {partitions} partitions: the other lanes stay empty")
        pending = _pending_by_lane(self.snapshot, self.policy.lanes, now, self.unavailable)
        plans = tuple(
            Plan(lane, limit_offsets(self.ranges[lane], self.policy.max_offsets), pending.get(lane, ()), tuple(self.recommit[lane]))
            for lane in range(self.policy.lanes)
        )
        return PlanningResult(self.snapshot, plans, tuple(self.lags), self.halted, self.unavailable, tuple(self.notes))


def _topic_state(snapshot: LedgerSnapshot, offsets: TopicOffsets) -> TopicState | None:
    """Return the topic's state in the ledger, or the state to open it with. None if it cannot be opened yet."""
    if offsets.topic in snapshot.topics:
        return snapshot.topics[offsets.topic]
    if offsets.topic in snapshot.unreadable:
        return TopicState(offsets.topic, 0, None, {})
    return None if offsets.unavailable else initial_topic_state(offsets)


def _unreadable_partitions(snapshot: LedgerSnapshot, state: TopicState, offsets: TopicOffsets) -> dict[TopicPartition, str]:
    """Return a message for each partition with an unreadable ledger item.

    Treating such a partition as new would read it from its start again.
    """
    reasons = {partition: snapshot.unreadable_reason(partition) for partition in map(state.partition, offsets.log_start_offsets)}
    return {partition: f"{partition} waits: {reason}" for partition, reason in reasons.items() if reason}


def _first_checkpoint(state: TopicState, partition: int) -> Checkpoint:
    start = state.start(partition)
    return Checkpoint(state.partition(partition), start, start)


def _lag(checkpoint: Checkpoint, offsets: TopicOffsets, partition: int) -> PartitionLag:
    return PartitionLag(
        checkpoint.topic_partition,
        checkpoint.next_offset,
        high_watermark=offsets.high_watermarks[partition],
        last_stable_offset=offsets.last_stable_offsets[partition],
        log_start_offset=offsets.log_start_offsets[partition],
        committed=offsets.committed.get(partition),
    )


def recreation_message(state: TopicState, offsets: TopicOffsets, checkpoint: Checkpoint, partition: int) -> str | None:
    """Return a message if Kafka's topic is not the incarnation in the ledger, otherwise None."""
    command = f"Run `analytics accept-recreated-topic {offsets.topic}`"
    other_cluster = "If that was not intended, KAFKA_BROKERS may lead to another cluster."
    if state.topic_id and offsets.topic_id and state.topic_id != offsets.topic_id:
        ids = f"id {offsets.topic_id}, the ledger knows {state.topic_id}"
        return (
            f"{checkpoint.topic_partition}: topic {offsets.topic} was deleted and created again ({ids}). "
            f"{command} to read the new topic from its start; stored events stay. {other_cluster}"
        )
    log_end = offsets.high_watermarks[partition]
    if log_end < checkpoint.next_offset:
        return (
            f"{checkpoint.topic_partition}: the log ends at {log_end}, before the next offset to read, {checkpoint.next_offset}: "
            f"the topic was created again or its log was truncated. {command} to continue: a topic with the same id at the end of its log, "
            f"another topic from its start. Stored events stay. {other_cluster}"
        )
    return None


def data_loss_message(checkpoint: Checkpoint, lag: PartitionLag) -> str | None:
    """Return a message if Kafka's retention removed unread offsets, otherwise None."""
    if lag.log_start_offset <= checkpoint.next_offset:
        return None
    return (
        f"{checkpoint.topic_partition}: retention removed [{checkpoint.next_offset}, {lag.log_start_offset}) before it was read, and "
        "ON_DATA_LOSS=stop. Set ON_DATA_LOSS=continue to record the range as lost and continue."
    )


def _pending_by_lane(
    snapshot: LedgerSnapshot, lanes: int, now: datetime, unavailable: Collection[TopicPartition]
) -> dict[int, tuple[str, ...]]:
    """Return the pending batches that each lane must finish: those whose first range is in the lane, by id.

    A redrive with a valid lease is left to its run. A batch that is not staged waits until all of its partitions
    are available, because its records must be read again.
    """
    by_lane: dict[int, tuple[str, ...]] = {}
    for batch in sorted(snapshot.pending.values(), key=lambda batch: batch.id):
        lease = snapshot.leases.get(batch.run_id)
        if batch.kind is BatchKind.REDRIVE and lease is not None and now - lease.renewed_at < LEASE_DURATION:
            continue
        if batch.staged is None and any(range_.topic_partition in unavailable for range_ in batch.ranges):
            continue
        lane = lane_of(batch.ranges[0].topic_partition, lanes)
        by_lane[lane] = (*by_lane.get(lane, ()), batch.id)
    return by_lane


def limit_offsets(ranges: Sequence[Range], max_offsets: int) -> tuple[Range, ...]:
    """Cut the ranges to `max_offsets` in total. Small ranges stay whole; the others get equal lengths, at least 1."""
    left = max_offsets
    lengths: dict[Range, int] = {}
    for count, range_ in enumerate(sorted(ranges, key=len)):
        lengths[range_] = min(len(range_), max(1, left // (len(ranges) - count)))
        left -= lengths[range_]
    return tuple(Range(range_.topic_partition, range_.start, range_.start + lengths[range_]) for range_ in sorted(ranges))


def remaining_plan(plan: Plan, snapshot: LedgerSnapshot) -> Plan:
    """Return the part of the plan's ranges that the checkpoints have not passed. False if nothing remains."""
    starts = {range_: _next_offset(range_, snapshot) for range_ in plan.ranges}
    ranges = (Range(range_.topic_partition, start, range_.end) for range_, start in starts.items() if start is not None)
    return Plan(plan.lane, tuple(ranges))


def _next_offset(range_: Range, snapshot: LedgerSnapshot) -> int | None:
    """Return where to continue in the range. None if it is closed, pending, unreadable, or of an older incarnation."""
    partition = range_.topic_partition
    topic, checkpoint = snapshot.topics.get(partition.topic), snapshot.checkpoint(partition)
    if topic is None or topic.incarnation != partition.incarnation or snapshot.unreadable_reason(partition) is not None:
        return None
    is_inside = checkpoint.pending_batch_id is None and range_.start <= checkpoint.next_offset < range_.end
    return checkpoint.next_offset if is_inside else None
