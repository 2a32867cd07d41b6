"""Plans of lanes, made from the state of Kafka and the ledger at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.core.ingest.planning import (
    LEASE_DURATION,
    OnDataLoss,
    PartitionLag,
    Plan,
    PlanningPolicy,
    PlanningResult,
    TopicOffsets,
    initial_topic_state,
    lane_of,
    limit_offsets,
    make_plans,
    remaining_plan,
)
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, BatchKind, Checkpoint, Lease, LedgerSnapshot, TopicState
from analytics_defs.core.offsets import Range, TopicPartition
from tests.core.events.made_events import NOW, reproducibly
from tests.core.ingest.batches import batch

TOPIC = "ProductCreated"
AT = TopicPartition(TOPIC, 0, 0)


def kafka_state(high_watermarks: Mapping[int, int], **changes: Any) -> TopicOffsets:
    defaults = {
        "topic_id": "id",
        "log_start_offsets": dict.fromkeys(high_watermarks, 0),
        "last_stable_offsets": high_watermarks,
        "high_watermarks": high_watermarks,
        "committed": dict.fromkeys(high_watermarks),
    }
    return TopicOffsets(TOPIC, **(defaults | changes))


def snapshot_of(*checkpoints: Checkpoint, state: TopicState | None = None, **fields: Any) -> LedgerSnapshot:
    topic = state or TopicState(TOPIC, 0, "id", {})
    return LedgerSnapshot({TOPIC: topic}, {checkpoint.topic_partition: checkpoint for checkpoint in checkpoints}, **fields)


def result_of(snapshot: LedgerSnapshot, topic: TopicOffsets | None, policy: PlanningPolicy | None = None) -> PlanningResult:
    return make_plans(snapshot, {TOPIC: topic}, policy or PlanningPolicy(), NOW)


# Ranges.


def test_a_plan_reaches_from_the_checkpoint_to_the_last_stable_offset() -> None:
    (plan,) = result_of(snapshot_of(Checkpoint(AT, 0, 4)), kafka_state({0: 12}, last_stable_offsets={0: 9}, committed={0: 4})).plans
    assert plan == Plan(0, (Range(AT, 4, 9),))
    assert plan.offsets == 5


def test_a_new_topic_is_read_from_the_groups_offsets_or_its_oldest_records() -> None:
    offsets = kafka_state({0: 9, 1: 9, 2: 9}, log_start_offsets={0: 2, 1: 2, 2: 2}, committed={0: 5, 1: None, 2: 10})
    assert initial_topic_state(offsets) == TopicState(TOPIC, 0, "id", {0: 5, 1: 2, 2: 2})
    (plan,) = result_of(LedgerSnapshot(), offsets).plans
    assert plan.ranges == tuple(Range(TopicPartition(TOPIC, 0, partition), start, 9) for partition, start in ((0, 5), (1, 2), (2, 2)))


def test_an_added_partition_is_read_from_0() -> None:
    state = TopicState(TOPIC, 0, "id", {0: 7})
    (plan,) = result_of(snapshot_of(Checkpoint(AT, 7, 9), state=state), kafka_state({0: 9, 1: 3}, committed={0: 9, 1: None})).plans
    assert plan.ranges == (Range(TopicPartition(TOPIC, 0, 1), 0, 3),)


def test_a_later_incarnation_is_read_under_its_own_name() -> None:
    state = TopicState(TOPIC, 2, "id", {})
    (plan,) = result_of(snapshot_of(Checkpoint(AT, 0, 50), state=state), kafka_state({0: 3})).plans
    assert plan.ranges == (Range(TopicPartition(TOPIC, 2, 0), 0, 3),)


def test_a_plan_includes_offsets_that_kafka_removed() -> None:
    (plan,) = result_of(
        snapshot_of(Checkpoint(AT, 0, 4)), kafka_state({0: 12}, log_start_offsets={0: 12}, last_stable_offsets={0: 12})
    ).plans
    assert plan.ranges == (Range(AT, 4, 12),)


def test_a_pending_batch_is_finished_before_its_partition_is_read() -> None:
    pending = batch(Range(AT, 4, 6))
    (plan,) = result_of(snapshot_of(Checkpoint(AT, 0, 4, "batch"), pending={"batch": pending}), kafka_state({0: 12})).plans
    assert plan == Plan(0, pending_batch_ids=("batch",))


def test_a_missing_topic_is_noted_and_halts_nothing() -> None:
    result = result_of(LedgerSnapshot(), None)
    assert (result.plans, result.notes) == ((Plan(0),), ("topic ProductCreated does not exist yet",))
    assert not result.plans[0]


def test_more_lanes_than_partitions_are_noted_and_halt_nothing() -> None:
    result = result_of(snapshot_of(), kafka_state({0: 9, 1: 9}), PlanningPolicy(lanes=3))
    assert result.notes == ("LANES=3, but there are only 2 partitions: the other lanes stay empty",)
    assert sum(plan.offsets for plan in result.plans) == 18
    assert result_of(snapshot_of(), kafka_state({0: 9, 1: 9}), PlanningPolicy(lanes=2)).notes == ()


# Halted partitions.


@pytest.mark.parametrize(
    ("snapshot", "topic", "message"),
    [
        pytest.param(
            snapshot_of(Checkpoint(AT, 0, 4)), kafka_state({0: 12}, topic_id="other"), r"id other, the ledger knows id", id="another id"
        ),
        pytest.param(
            snapshot_of(Checkpoint(AT, 0, 4)),
            kafka_state({0: 3}),
            r"the log ends at 3, before the next offset to read, 4",
            id="a truncated log",
        ),
        pytest.param(
            snapshot_of(Checkpoint(AT, 0, 4), state=TopicState(TOPIC, 0, None, {})),
            kafka_state({0: 3}, topic_id=None),
            r"ends at 3",
            id="a truncated log without topic ids",
        ),
    ],
)
def test_a_recreated_topic_is_halted_with_the_command_to_continue(snapshot: LedgerSnapshot, topic: TopicOffsets, message: str) -> None:
    result = result_of(snapshot, topic)
    assert not result.plans[0]
    assert message in result.halted[AT]
    assert "analytics accept-recreated-topic ProductCreated" in result.halted[AT]


@pytest.mark.parametrize("ledger_id", [None, "id"])
@pytest.mark.parametrize("kafka_id", [None, "id"])
def test_a_missing_topic_id_does_not_halt_a_partition(ledger_id: str | None, kafka_id: str | None) -> None:
    result = result_of(
        snapshot_of(Checkpoint(AT, 0, 4), state=TopicState(TOPIC, 0, ledger_id, {})), kafka_state({0: 12}, topic_id=kafka_id)
    )
    assert result.halted == {}


def test_data_loss_halts_a_partition_only_with_on_data_loss_stop() -> None:
    snapshot, topic = snapshot_of(Checkpoint(AT, 0, 4)), kafka_state({0: 12, 1: 5}, log_start_offsets={0: 7, 1: 0})
    result = result_of(snapshot, topic, PlanningPolicy(on_data_loss=OnDataLoss.STOP))
    assert "retention removed [4, 7) before it was read" in result.halted[AT]
    assert [str(range_) for range_ in result.plans[0].ranges] == ["ProductCreated/1[0,5)"]
    assert result_of(snapshot, topic).halted == {}


# Group offsets.


@pytest.mark.parametrize(("committed", "notes"), [(None, 0), (2, 1), (9, 1), (4, 0)])
def test_a_group_offset_that_differs_is_committed_again_and_a_move_is_noted(committed: int | None, notes: int) -> None:
    result = result_of(snapshot_of(Checkpoint(AT, 0, 4)), kafka_state({0: 4}, committed={0: committed}))
    assert result.plans[0].recommit == (() if committed == 4 else (AT,))
    assert len(result.notes) == notes


def test_a_partition_with_records_needs_no_recommit_but_a_move_is_noted() -> None:
    result = result_of(snapshot_of(Checkpoint(AT, 0, 4)), kafka_state({0: 12}, committed={0: 2}))
    assert (result.plans[0].recommit, len(result.notes)) == ((), 1)


def test_idle_partitions_are_committed_again_on_demand() -> None:
    result = result_of(
        snapshot_of(Checkpoint(AT, 0, 4)), kafka_state({0: 4, 1: 0}, committed={0: 4, 1: None}), PlanningPolicy(recommit_lanes={0})
    )
    assert result.plans[0].recommit == (AT,)


# Lag.


def test_lag_reaches_to_the_high_watermark_and_includes_the_transaction_lag() -> None:
    (lag,) = result_of(snapshot_of(Checkpoint(AT, 0, 4)), kafka_state({0: 12}, last_stable_offsets={0: 9})).lags
    assert (lag.offsets, lag.transaction_lag) == (8, 3)


def test_lag_is_never_below_0() -> None:
    lag = PartitionLag(AT, next_offset=9, high_watermark=7, last_stable_offset=7, log_start_offset=0, committed=None)
    assert (lag.offsets, lag.transaction_lag) == (0, 0)


# Lanes.


def test_each_partition_is_in_exactly_one_lane() -> None:
    high_watermarks = dict.fromkeys(range(16), 5)
    for lanes in (1, 2, 3, 7, 16):
        plans = result_of(LedgerSnapshot(), kafka_state(high_watermarks), PlanningPolicy(lanes=lanes)).plans
        assert [plan.lane for plan in plans] == list(range(lanes))
        ranges = [range_ for plan in plans for range_ in plan.ranges]
        assert sorted(range_.topic_partition.partition for range_ in ranges) == list(range(16))
        assert max(len(plan.ranges) for plan in plans) - min(len(plan.ranges) for plan in plans) <= 1


def test_a_recreated_topic_keeps_its_lanes() -> None:
    assert lane_of(TopicPartition(TOPIC, 0, 3), 4) == lane_of(TopicPartition(TOPIC, 5, 3), 4)
    assert {lane_of(TopicPartition(TOPIC, 0, partition), 4) for partition in range(4)} == {0, 1, 2, 3}


def test_a_pending_batch_is_finished_by_the_current_lane_of_its_first_partition() -> None:
    first, second = TopicPartition(TOPIC, 0, 0), TopicPartition(TOPIC, 0, 1)
    pending = batch(Range(first, 4, 6), Range(second, 0, 1), lane=7)
    snapshot = snapshot_of(Checkpoint(first, 0, 4, "batch"), Checkpoint(second, 0, 0, "batch"), pending={"batch": pending})
    lanes = {plan.lane for plan in result_of(snapshot, kafka_state({0: 9, 1: 9}), PlanningPolicy(lanes=2)).plans if plan.pending_batch_ids}
    assert lanes == {lane_of(first, 2)}


@pytest.mark.parametrize(
    ("lease", "finished"),
    [
        pytest.param(Lease("run", -1, NOW), False, id="valid"),
        pytest.param(Lease("run", -1, NOW - LEASE_DURATION + timedelta(seconds=1)), False, id="almost expired"),
        pytest.param(Lease("run", -1, NOW - LEASE_DURATION), True, id="expired"),
        pytest.param(Lease("other", -1, NOW), True, id="of another run"),
    ],
)
def test_a_redrive_with_a_valid_lease_is_not_planned(lease: Lease, finished: bool) -> None:
    pending = batch(Range(REDRIVE_CHECKPOINT, 0, 1), kind=BatchKind.REDRIVE)
    snapshot = snapshot_of(pending={"batch": pending}, leases={lease.run_id: lease})
    assert result_of(snapshot, kafka_state({0: 0})).plans[0].pending_batch_ids == (("batch",) if finished else ())


def test_an_ingest_batch_is_finished_by_its_lane_despite_a_valid_lease() -> None:
    snapshot = snapshot_of(Checkpoint(AT, 0, 4, "batch"), pending={"batch": batch(Range(AT, 4, 6))}, leases={"run": Lease("run", 0, NOW)})
    assert result_of(snapshot, kafka_state({0: 9})).plans[0].pending_batch_ids == ("batch",)


# Sizes.


@reproducibly
@given(st.lists(st.integers(1, 100), min_size=1, max_size=10), st.integers(1, 300))
def test_split_ranges_use_the_limit_and_each_has_at_least_one_offset(lengths: list[int], limit: int) -> None:
    ranges = [Range(TopicPartition(TOPIC, 0, partition), 7, 7 + length) for partition, length in enumerate(lengths)]
    parts = limit_offsets(ranges, limit)
    assert [part.start for part in parts] == [7] * len(lengths)
    assert all(1 <= len(part) <= len(range_) for part, range_ in zip(parts, ranges, strict=True))
    total = sum(map(len, parts))
    assert total <= max(limit, len(lengths))
    assert total == sum(lengths) or total >= limit


def test_a_plan_is_cut_to_its_limit() -> None:
    (plan,) = result_of(LedgerSnapshot(), kafka_state({0: 1_000, 1: 10}), PlanningPolicy(max_offsets=110)).plans
    assert [len(range_) for range_ in plan.ranges] == [100, 10]


# Fingerprints.


def test_a_fingerprint_depends_on_the_start_of_a_plan_and_not_on_its_end() -> None:
    base = Plan(1, (Range(AT, 4, 9),), ("batch",), (AT,))
    assert base.fingerprint == replace(base, ranges=(Range(AT, 4, 700),)).fingerprint
    others = [
        replace(base, lane=2),
        replace(base, ranges=(Range(AT, 5, 9),)),
        replace(base, ranges=()),
        replace(base, pending_batch_ids=()),
        replace(base, recommit=()),
    ]
    assert len({plan.fingerprint for plan in [base, *others]}) == 6
    assert len(base.fingerprint) == 16
    assert int(base.fingerprint, 16) >= 0


# Remaining plans.


@pytest.mark.parametrize(
    ("checkpoint", "remaining"),
    [
        (Checkpoint(AT, 0, 4), (Range(AT, 4, 9),)),
        (Checkpoint(AT, 0, 6), (Range(AT, 6, 9),)),
        (Checkpoint(AT, 0, 9), ()),
        (Checkpoint(AT, 0, 20), ()),
        (Checkpoint(AT, 0, 3), ()),
        (Checkpoint(AT, 0, 6, "batch"), ()),
    ],
    ids=["at the start", "inside", "at the end", "past the end", "before the start", "pending"],
)
def test_the_remaining_plan_starts_at_the_checkpoints(checkpoint: Checkpoint, remaining: tuple[Range, ...]) -> None:
    assert remaining_plan(Plan(0, (Range(AT, 4, 9),)), snapshot_of(checkpoint)).ranges == remaining


def test_nothing_remains_of_a_plan_for_an_older_incarnation_or_an_unknown_topic() -> None:
    old = Plan(0, (Range(AT, 4, 9),))
    assert not remaining_plan(old, snapshot_of(Checkpoint(AT, 0, 4), state=TopicState(TOPIC, 1, "new", {})))
    assert not remaining_plan(old, LedgerSnapshot())


UNREADABLE = {"ProductCreated": 2, "ProductCreated/0": 1, "batch-7": 1}
"""Number of halted partitions of two, by the name of the unreadable item."""


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_ledger_item_halts_only_its_partitions(name: str) -> None:
    checkpoints = [
        Checkpoint(AT, 0, 4, pending_batch_id="batch-7" if name == "batch-7" else None),
        Checkpoint(TopicPartition(TOPIC, 0, 1), 0, 4),
    ]
    snapshot = snapshot_of(
        *(checkpoint for checkpoint in checkpoints if str(checkpoint.topic_partition) != name),
        unreadable={name: "ledger item x cannot be read"},
    )
    snapshot = replace(snapshot, topics={} if name == TOPIC else snapshot.topics)
    result = result_of(snapshot, kafka_state({0: 9, 1: 9}, committed={0: 4, 1: 4}))
    assert len(result.halted) == UNREADABLE[name]
    assert result.halted[AT] == "ProductCreated/0 waits: ledger item x cannot be read"
    assert [range_.topic_partition.partition for range_ in result.plans[0].ranges] == ([] if name == TOPIC else [1])
    earlier_plan = Plan(0, (Range(AT, 0, 9),))
    assert not remaining_plan(earlier_plan, snapshot)
