"""What one run may do. Pure: a plan is a value, made from what Kafka and the ledger say at one moment."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from analytics_defs.core.ledger import BatchKind, Checkpoint, LedgerSnapshot, TopicState
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import Unavailable

LEASE_DURATION = timedelta(seconds=60)
"""A run that has not renewed its lease for so long is dead."""


class OnDataLoss(StrEnum):
    CONTINUE = "continue"
    """Record and count the exact lost range, and continue behind it."""
    STOP = "stop"
    """Stop the partition until a person decides."""


@dataclass(frozen=True, slots=True)
class TopicOffsets:
    """What Kafka says of one topic at one moment."""

    topic: str
    topic_id: str | None
    log_start_offsets: Mapping[int, int]
    last_stable_offsets: Mapping[int, int]
    high_watermarks: Mapping[int, int]
    committed: Mapping[int, int | None]
    unavailable: Mapping[int, str] = field(default_factory=dict)
    """Partitions that are in none of the above because their leader does not answer, and what was said instead."""


@dataclass(frozen=True, slots=True)
class PlanningPolicy:
    lanes: int = 1
    max_offsets: int = 100_000
    """Offsets one lane's plan covers at most: 75 to 160 s of work, as measured on two cores, since a run costs about 5 s to start."""
    on_data_loss: OnDataLoss = OnDataLoss.CONTINUE
    recommit: Collection[int] = ()
    """Lanes in which every head is committed again: offsets of a group without members expire on a quiet topic."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Ranges of one lane, and what was left behind there by others."""

    lane: int
    ranges: tuple[Range, ...] = ()
    pending_batch_ids: tuple[str, ...] = ()
    """Pending batches to finish first."""
    recommit: tuple[TopicPartition, ...] = ()
    """Partitions whose group offset is not the head's `next`."""

    def __bool__(self) -> bool:
        return bool(self.ranges or self.pending_batch_ids or self.recommit)

    @property
    def offsets(self) -> int:
        return sum(map(len, self.ranges))

    def without(self, partitions: Collection[TopicPartition]) -> Plan:
        """The same, but no range of these."""
        return replace(self, ranges=tuple(each for each in self.ranges if each.topic_partition not in partitions))

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the lane and where it starts: the same as long as nothing moved, whatever the ends are by then."""
        starts = [f"{each.topic_partition}:{each.start}" for each in self.ranges]
        text = "\n".join([str(self.lane), *starts, *self.pending_batch_ids, *map(str, self.recommit)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far one topic-partition is behind."""

    topic_partition: TopicPartition
    next_offset: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    committed: int | None

    @property
    def offsets(self) -> int:
        """Records and markers not closed yet, counted to the uncommitted high watermark."""
        return max(0, self.high_watermark - self.next_offset)

    @property
    def transaction_lag(self) -> int:
        """Those of them behind an open transaction."""
        return max(0, self.high_watermark - max(self.last_stable_offset, self.next_offset))


@dataclass(frozen=True, slots=True)
class PlanningResult:
    snapshot: LedgerSnapshot
    """What the ledger said."""
    plans: tuple[Plan, ...]
    """One for each lane, lane by lane; an empty one is false."""
    lags: tuple[PartitionLag, ...]
    halted: Mapping[TopicPartition, str] = field(default_factory=dict)
    """Partitions that must not go on before a person decided, and why."""
    unavailable: Mapping[TopicPartition, str] = field(default_factory=dict)
    """Partitions that wait because their leader does not answer, and why. Their lag is not known."""
    notes: tuple[str, ...] = ()
    """What a person should hear about: moved group offsets, missing topics."""


def lane_of(topic_partition: TopicPartition, lanes: int) -> int:
    """A fixed share: neither other topics nor added partitions move a partition to another lane."""
    return (zlib.crc32(topic_partition.topic.encode()) + topic_partition.partition) % lanes


def initial_topic_state(seen: TopicOffsets) -> TopicState:
    """The first generation of a topic nobody met before: the group's offsets where they still make sense, else the oldest record.

    A group offset beyond the end of the log belongs to an older topic of that name; reading everything loses nothing.
    Raises Unavailable where a partition does not answer: without its offsets the account would begin at 0 there.
    """
    starts = {}
    if seen.unavailable:
        raise Unavailable(topic_not_open_message(seen))
    for partition, low in seen.log_start_offsets.items():
        committed = seen.committed.get(partition)
        starts[partition] = committed if committed is not None and committed <= seen.high_watermarks[partition] else low
    return TopicState(seen.topic, 0, seen.topic_id, starts)


def topic_not_open_message(seen: TopicOffsets) -> str:
    return (
        f"topic {seen.topic} is new to the ledger, and {len(seen.unavailable)} of its partitions do not answer: it waits, for where the account "
        f"of each begins is fixed for all of them together ({next(iter(seen.unavailable.values()))})"
    )


def make_plans(
    snapshot: LedgerSnapshot, topics: Mapping[str, TopicOffsets | None], policy: PlanningPolicy, now: datetime
) -> PlanningResult:
    """Plans for every lane. `topics`: all configured names, None for those Kafka does not have."""
    there = [(seen, _state(snapshot, seen)) for seen in topics.values() if seen is not None]
    notes = [f"topic {name} does not exist yet" for name, seen in topics.items() if seen is None]
    notes += [topic_not_open_message(seen) for seen, state in there if state is None]
    stopped: dict[TopicPartition, str] = {}
    silent: dict[TopicPartition, str] = {}
    lags: list[PartitionLag] = []
    ranges: dict[int, list[Range]] = {lane: [] for lane in range(policy.lanes)}
    recommit: dict[int, list[TopicPartition]] = {lane: [] for lane in range(policy.lanes)}
    for seen, state in there:
        if state is None:
            continue
        silent |= {
            state.partition(each): f"{state.partition(each)} waits, the others go on: {why}" for each, why in seen.unavailable.items()
        }
        stopped |= _unreadable(snapshot, state, seen)
        for partition in sorted(each for each in seen.log_start_offsets if state.partition(each) not in stopped):
            head = snapshot.checkpoint(state.partition(partition)) if seen.topic in snapshot.topics else _new_head(state, partition)
            lag = _lag(head, seen, partition)
            lags.append(lag)
            fault = (
                recreation_error(state, seen, head, partition)
                or (policy.on_data_loss is OnDataLoss.STOP and data_loss_error(head, lag))
                or None
            )
            if fault:
                stopped[head.topic_partition] = fault
            elif head.pending_batch_id is None:
                lane = lane_of(head.topic_partition, policy.lanes)
                end = max(lag.last_stable_offset, min(lag.log_start_offset, lag.high_watermark))
                if end > head.next_offset:
                    ranges[lane].append(Range(head.topic_partition, head.next_offset, end))
                elif (lane in policy.recommit or lag.committed != head.next_offset) and head.topic_partition in snapshot.checkpoints:
                    recommit[lane].append(head.topic_partition)
                if head.topic_partition in snapshot.checkpoints and lag.committed not in (None, head.next_offset):
                    notes.append(
                        f"{head.topic_partition}: the group's offset is {lag.committed}, the ledger's {head.next_offset}: the ledger decides"
                    )
    if lags and policy.lanes > len(lags) + len(stopped) + len(silent):
        notes.append(
            f"LANES={policy.lanes}, and there are {len(lags) + len(stopped) + len(silent)} partitions: lanes beyond them stay empty"
        )
    finish = _finish(snapshot, policy.lanes, now, silent)
    plans = tuple(
        Plan(lane, split_offsets(ranges[lane], policy.max_offsets), finish.get(lane, ()), tuple(recommit[lane]))
        for lane in range(policy.lanes)
    )
    return PlanningResult(snapshot, plans, tuple(lags), stopped, silent, tuple(notes))


def _state(snapshot: LedgerSnapshot, seen: TopicOffsets) -> TopicState | None:
    """The life of the topic that the ledger knows, or the one that it will open. None where that has to wait."""
    if seen.topic in snapshot.topics:
        return snapshot.topics[seen.topic]
    if seen.topic in snapshot.unreadable:
        return TopicState(seen.topic, 0, None, {})
    return None if seen.unavailable else initial_topic_state(seen)


def _unreadable(snapshot: LedgerSnapshot, state: TopicState, seen: TopicOffsets) -> dict[TopicPartition, str]:
    """Partitions of which the ledger's word is there and cannot be read: to take them for new would read them from their start."""
    found = {each: snapshot.unreadable_reason(each) for each in map(state.partition, seen.log_start_offsets)}
    return {each: f"{each} waits: {why}" for each, why in found.items() if why}


def _new_head(state: TopicState, partition: int) -> Checkpoint:
    start = state.start(partition)
    return Checkpoint(state.partition(partition), start, start)


def _lag(head: Checkpoint, seen: TopicOffsets, partition: int) -> PartitionLag:
    return PartitionLag(
        head.topic_partition,
        head.next_offset,
        high_watermark=seen.high_watermarks[partition],
        last_stable_offset=seen.last_stable_offsets[partition],
        log_start_offset=seen.log_start_offsets[partition],
        committed=seen.committed.get(partition),
    )


def recreation_error(state: TopicState, seen: TopicOffsets, head: Checkpoint, partition: int) -> str | None:
    """Why this is not the topic the ledger knows, or None."""
    how = (
        f"Run `analytics accept-recreated-topic {seen.topic}` to read the new one from its start; what was stored stays. Where it was not meant, "
        "KAFKA_BROKERS may lead to another cluster."
    )
    if state.topic_id and seen.topic_id and state.topic_id != seen.topic_id:
        ids = f"id {seen.topic_id}, the ledger knows {state.topic_id}"
        return f"{head.topic_partition}: topic {seen.topic} was deleted and created again ({ids}). {how}"
    if seen.high_watermarks[partition] < head.next_offset:
        return (
            f"{head.topic_partition}: the log ends at {seen.high_watermarks[partition]}, before the next offset to read, {head.next_offset}: "
            f"the topic was created again or its log was cut. {how}"
        )
    return None


def data_loss_error(head: Checkpoint, lag: PartitionLag) -> str | None:
    """What retention removed before it was read, or None."""
    if lag.log_start_offset <= head.next_offset:
        return None
    return (
        f"{head.topic_partition}: retention removed [{head.next_offset}, {lag.log_start_offset}) before it was read, and ON_DATA_LOSS=stop. "
        "Set ON_DATA_LOSS=continue to record the range as lost and continue."
    )


def _finish(snapshot: LedgerSnapshot, lanes: int, now: datetime, silent: Collection[TopicPartition]) -> dict[int, tuple[str, ...]]:
    """Each pending batch goes to the lane of its first range, as lanes are now; a redrive that shows a sign of life is left to itself.

    One that has to be read again waits while a partition of it does not answer.
    """
    finish: dict[int, tuple[str, ...]] = {}
    for batch in sorted(snapshot.pending.values(), key=lambda each: each.id):
        lease = snapshot.leases.get(batch.run_id)
        if batch.kind is BatchKind.REDRIVE and lease is not None and now - lease.renewed_at < LEASE_DURATION:
            continue
        if batch.staged is None and any(each.topic_partition in silent for each in batch.ranges):
            continue
        lane = lane_of(batch.ranges[0].topic_partition, lanes)
        finish[lane] = (*finish.get(lane, ()), batch.id)
    return finish


def split_offsets(ranges: Sequence[Range], max_offsets: int) -> tuple[Range, ...]:
    """Cut the ranges to `max_offsets` together: small ones whole, the rest in equal shares, at least one offset each."""
    left, shares = max_offsets, {}
    for count, each in enumerate(sorted(ranges, key=len)):
        shares[each] = min(len(each), max(1, left // (len(ranges) - count)))
        left -= shares[each]
    return tuple(Range(each.topic_partition, each.start, each.start + shares[each]) for each in sorted(ranges))


def remaining_plan(plan: Plan, snapshot: LedgerSnapshot) -> Plan:
    """What is left of the plan's ranges, from the heads as they are now. False where nothing is: it is closed, or its topic is no more."""
    left = []
    for each in plan.ranges:
        topic, head = snapshot.topics.get(each.topic_partition.topic), snapshot.checkpoint(each.topic_partition)
        alive = topic is not None and topic.incarnation == each.topic_partition.incarnation
        alive = alive and snapshot.unreadable_reason(each.topic_partition) is None
        if alive and head.pending_batch_id is None and each.start <= head.next_offset < each.end:
            left.append(Range(each.topic_partition, head.next_offset, each.end))
    return Plan(plan.lane, tuple(left))
