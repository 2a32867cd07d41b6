"""Plans: what each lane may do, from what Kafka and the ledger say at one moment."""

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
    make_plans,
    remaining_plan,
    split_offsets,
)
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, BatchKind, Checkpoint, Lease, LedgerSnapshot, TopicState
from analytics_defs.core.offsets import Range, TopicPartition
from tests.core.events.made_events import NOW, reproducibly
from tests.core.ingest.batches import batch

TOPIC = "ProductCreated"
AT = TopicPartition(TOPIC, 0, 0)


def seen(highs: Mapping[int, int], **changes: Any) -> TopicOffsets:
    known = {
        "topic_id": "id",
        "log_start_offsets": dict.fromkeys(highs, 0),
        "last_stable_offsets": highs,
        "high_watermarks": highs,
        "committed": dict.fromkeys(highs),
    }
    return TopicOffsets(TOPIC, **(known | changes))


def ledger(*heads: Checkpoint, state: TopicState | None = None, **more: Any) -> LedgerSnapshot:
    topic = state or TopicState(TOPIC, 0, "id", {})
    return LedgerSnapshot({TOPIC: topic}, {head.topic_partition: head for head in heads}, **more)


def planned(snapshot: LedgerSnapshot, topic: TopicOffsets | None, policy: PlanningPolicy | None = None) -> PlanningResult:
    return make_plans(snapshot, {TOPIC: topic}, policy or PlanningPolicy(), NOW)


# Ranges.


def test_a_plan_reaches_from_the_checkpoint_to_the_last_stable_offset() -> None:
    (only,) = planned(ledger(Checkpoint(AT, 0, 4)), seen({0: 12}, last_stable_offsets={0: 9}, committed={0: 4})).plans
    assert only == Plan(0, (Range(AT, 4, 9),))
    assert only.offsets == 5


def test_a_new_topic_is_read_from_the_groups_offsets_or_its_oldest_records() -> None:
    found = seen({0: 9, 1: 9, 2: 9}, log_start_offsets={0: 2, 1: 2, 2: 2}, committed={0: 5, 1: None, 2: 10})
    assert initial_topic_state(found) == TopicState(TOPIC, 0, "id", {0: 5, 1: 2, 2: 2})
    (only,) = planned(LedgerSnapshot(), found).plans
    assert only.ranges == tuple(Range(TopicPartition(TOPIC, 0, partition), start, 9) for partition, start in ((0, 5), (1, 2), (2, 2)))


def test_an_added_partition_is_read_from_0() -> None:
    state = TopicState(TOPIC, 0, "id", {0: 7})
    (only,) = planned(ledger(Checkpoint(AT, 7, 9), state=state), seen({0: 9, 1: 3}, committed={0: 9, 1: None})).plans
    assert only.ranges == (Range(TopicPartition(TOPIC, 0, 1), 0, 3),)


def test_a_later_incarnation_is_read_under_its_own_name() -> None:
    state = TopicState(TOPIC, 2, "id", {})
    (only,) = planned(ledger(Checkpoint(AT, 0, 50), state=state), seen({0: 3})).plans
    assert only.ranges == (Range(TopicPartition(TOPIC, 2, 0), 0, 3),)


def test_a_plan_includes_offsets_that_kafka_removed() -> None:
    (only,) = planned(ledger(Checkpoint(AT, 0, 4)), seen({0: 12}, log_start_offsets={0: 12}, last_stable_offsets={0: 12})).plans
    assert only.ranges == (Range(AT, 4, 12),)


def test_a_pending_batch_is_finished_before_its_partition_is_read() -> None:
    pending = batch(Range(AT, 4, 6))
    (only,) = planned(ledger(Checkpoint(AT, 0, 4, "batch"), pending={"batch": pending}), seen({0: 12})).plans
    assert only == Plan(0, pending_batch_ids=("batch",))


def test_a_missing_topic_is_noted_and_halts_nothing() -> None:
    found = planned(LedgerSnapshot(), None)
    assert (found.plans, found.notes) == ((Plan(0),), ("topic ProductCreated does not exist yet",))
    assert not found.plans[0]


# Stopped.


def test_more_lanes_than_partitions_are_noted_and_halt_nothing() -> None:
    found = planned(ledger(), seen({0: 9, 1: 9}), PlanningPolicy(lanes=3))
    assert found.notes == ("LANES=3, and there are 2 partitions: lanes beyond them stay empty",)
    assert sum(each.offsets for each in found.plans) == 18
    assert planned(ledger(), seen({0: 9, 1: 9}), PlanningPolicy(lanes=2)).notes == ()


@pytest.mark.parametrize(
    ("snapshot", "topic", "why"),
    [
        pytest.param(ledger(Checkpoint(AT, 0, 4)), seen({0: 12}, topic_id="other"), r"id other, the ledger knows id", id="another id"),
        pytest.param(
            ledger(Checkpoint(AT, 0, 4)), seen({0: 3}), r"the log ends at 3, before the next offset to read, 4", id="a shorter log"
        ),
        pytest.param(
            ledger(Checkpoint(AT, 0, 4), state=TopicState(TOPIC, 0, None, {})),
            seen({0: 3}, topic_id=None),
            r"ends at 3",
            id="a shorter log, no ids",
        ),
    ],
)
def test_a_recreated_topic_is_halted_with_the_command_to_continue(snapshot: LedgerSnapshot, topic: TopicOffsets, why: str) -> None:
    found = planned(snapshot, topic)
    assert not found.plans[0]
    assert why in found.halted[AT]
    assert "analytics accept-recreated-topic ProductCreated" in found.halted[AT]


@pytest.mark.parametrize("known", [None, "id"])
@pytest.mark.parametrize("told", [None, "id"])
def test_a_missing_topic_id_does_not_halt_a_partition(known: str | None, told: str | None) -> None:
    found = planned(ledger(Checkpoint(AT, 0, 4), state=TopicState(TOPIC, 0, known, {})), seen({0: 12}, topic_id=told))
    assert found.halted == {}


def test_data_loss_halts_a_partition_only_with_on_data_loss_stop() -> None:
    snapshot, topic = ledger(Checkpoint(AT, 0, 4)), seen({0: 12, 1: 5}, log_start_offsets={0: 7, 1: 0})
    stopping = planned(snapshot, topic, PlanningPolicy(on_data_loss=OnDataLoss.STOP))
    assert "retention removed [4, 7) before it was read" in stopping.halted[AT]
    assert [str(each) for each in stopping.plans[0].ranges] == ["ProductCreated/1[0,5)"]
    assert planned(snapshot, topic).halted == {}


# The group.


@pytest.mark.parametrize(("committed", "notes"), [(None, 0), (2, 1), (9, 1), (4, 0)])
def test_a_group_offset_that_differs_is_committed_again_and_a_move_is_noted(committed: int | None, notes: int) -> None:
    found = planned(ledger(Checkpoint(AT, 0, 4)), seen({0: 4}, committed={0: committed}))
    assert found.plans[0].recommit == (() if committed == 4 else (AT,))
    assert len(found.notes) == notes


def test_a_partition_with_records_needs_no_recommit_but_a_move_is_noted() -> None:
    found = planned(ledger(Checkpoint(AT, 0, 4)), seen({0: 12}, committed={0: 2}))
    assert (found.plans[0].recommit, len(found.notes)) == ((), 1)


def test_idle_partitions_are_committed_again_on_demand() -> None:
    found = planned(ledger(Checkpoint(AT, 0, 4)), seen({0: 4, 1: 0}, committed={0: 4, 1: None}), PlanningPolicy(recommit={0}))
    assert found.plans[0].recommit == (AT,)


# Lag.


def test_lag_reaches_to_the_high_watermark_and_includes_the_transaction_lag() -> None:
    (lag,) = planned(ledger(Checkpoint(AT, 0, 4)), seen({0: 12}, last_stable_offsets={0: 9})).lags
    assert (lag.offsets, lag.transaction_lag) == (8, 3)


def test_lag_is_never_below_0() -> None:
    lag = PartitionLag(AT, next_offset=9, high_watermark=7, last_stable_offset=7, log_start_offset=0, committed=None)
    assert (lag.offsets, lag.transaction_lag) == (0, 0)


# Lanes.


def test_each_partition_is_in_exactly_one_lane() -> None:
    highs = dict.fromkeys(range(16), 5)
    for lanes in (1, 2, 3, 7, 16):
        found = planned(LedgerSnapshot(), seen(highs), PlanningPolicy(lanes=lanes)).plans
        assert [each.lane for each in found] == list(range(lanes))
        ranges = [each for one in found for each in one.ranges]
        assert sorted(each.topic_partition.partition for each in ranges) == list(range(16))
        assert max(len(one.ranges) for one in found) - min(len(one.ranges) for one in found) <= 1


def test_a_recreated_topic_keeps_its_lanes() -> None:
    assert lane_of(TopicPartition(TOPIC, 0, 3), 4) == lane_of(TopicPartition(TOPIC, 5, 3), 4)
    assert {lane_of(TopicPartition(TOPIC, 0, partition), 4) for partition in range(4)} == {0, 1, 2, 3}


def test_a_pending_batch_is_finished_by_the_current_lane_of_its_first_partition() -> None:
    first, second = TopicPartition(TOPIC, 0, 0), TopicPartition(TOPIC, 0, 1)
    pending = batch(Range(first, 4, 6), Range(second, 0, 1), lane=7)
    snapshot = ledger(Checkpoint(first, 0, 4, "batch"), Checkpoint(second, 0, 0, "batch"), pending={"batch": pending})
    finishing = {each.lane for each in planned(snapshot, seen({0: 9, 1: 9}), PlanningPolicy(lanes=2)).plans if each.pending_batch_ids}
    assert finishing == {lane_of(first, 2)}


@pytest.mark.parametrize(
    ("lease", "finished"),
    [
        pytest.param(Lease("run", -1, NOW), False, id="alive"),
        pytest.param(Lease("run", -1, NOW - LEASE_DURATION + timedelta(seconds=1)), False, id="just alive"),
        pytest.param(Lease("run", -1, NOW - LEASE_DURATION), True, id="expired"),
        pytest.param(Lease("other", -1, NOW), True, id="of another run"),
    ],
)
def test_a_redrive_with_a_valid_lease_is_not_planned(lease: Lease, finished: bool) -> None:
    pending = batch(Range(REDRIVE_CHECKPOINT, 0, 1), kind=BatchKind.REDRIVE)
    snapshot = ledger(pending={"batch": pending}, leases={lease.run_id: lease})
    assert planned(snapshot, seen({0: 0})).plans[0].pending_batch_ids == (("batch",) if finished else ())


def test_an_ingest_batch_is_finished_by_its_lane_despite_a_valid_lease() -> None:
    snapshot = ledger(Checkpoint(AT, 0, 4, "batch"), pending={"batch": batch(Range(AT, 4, 6))}, leases={"run": Lease("run", 0, NOW)})
    assert planned(snapshot, seen({0: 9})).plans[0].pending_batch_ids == ("batch",)


# Sizes.


@reproducibly
@given(st.lists(st.integers(1, 100), min_size=1, max_size=10), st.integers(1, 300))
def test_split_ranges_use_the_limit_and_each_has_at_least_one_offset(lengths: list[int], limit: int) -> None:
    ranges = [Range(TopicPartition(TOPIC, 0, partition), 7, 7 + length) for partition, length in enumerate(lengths)]
    found = split_offsets(ranges, limit)
    assert [each.start for each in found] == [7] * len(lengths)
    assert all(1 <= len(each) <= len(whole) for each, whole in zip(found, ranges, strict=True))
    total = sum(map(len, found))
    assert total <= max(limit, len(lengths))
    assert total == sum(lengths) or total >= limit


def test_a_plan_is_cut_to_its_limit() -> None:
    (only,) = planned(LedgerSnapshot(), seen({0: 1_000, 1: 10}), PlanningPolicy(max_offsets=110)).plans
    assert [len(each) for each in only.ranges] == [100, 10]


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
    assert len({each.fingerprint for each in [base, *others]}) == 6
    assert len(base.fingerprint) == 16
    assert int(base.fingerprint, 16) >= 0


# What is left.


@pytest.mark.parametrize(
    ("head", "left"),
    [
        (Checkpoint(AT, 0, 4), (Range(AT, 4, 9),)),
        (Checkpoint(AT, 0, 6), (Range(AT, 6, 9),)),
        (Checkpoint(AT, 0, 9), ()),
        (Checkpoint(AT, 0, 20), ()),
        (Checkpoint(AT, 0, 3), ()),
        (Checkpoint(AT, 0, 6, "batch"), ()),
    ],
    ids=["untouched", "partly closed", "closed", "long closed", "behind its start", "pending"],
)
def test_the_remaining_plan_starts_at_the_checkpoints(head: Checkpoint, left: tuple[Range, ...]) -> None:
    assert remaining_plan(Plan(0, (Range(AT, 4, 9),)), ledger(head)).ranges == left


def test_nothing_remains_of_a_plan_for_an_older_incarnation_or_an_unknown_topic() -> None:
    old = Plan(0, (Range(AT, 4, 9),))
    assert not remaining_plan(old, ledger(Checkpoint(AT, 0, 4), state=TopicState(TOPIC, 1, "new", {})))
    assert not remaining_plan(old, LedgerSnapshot())


UNREADABLE = {"ProductCreated": 2, "ProductCreated/0": 1, "gone": 1}
"""How many of two partitions wait, by what cannot be read."""


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_ledger_item_halts_only_its_partitions(name: str) -> None:
    heads = [Checkpoint(AT, 0, 4, pending_batch_id="gone" if name == "gone" else None), Checkpoint(TopicPartition(TOPIC, 0, 1), 0, 4)]
    known = ledger(*(head for head in heads if str(head.topic_partition) != name), unreadable={name: "ledger item x cannot be read"})
    known = replace(known, topics={} if name == TOPIC else known.topics)
    found = planned(known, seen({0: 9, 1: 9}, committed={0: 4, 1: 4}))
    assert len(found.halted) == UNREADABLE[name]
    assert found.halted[AT] == "ProductCreated/0 waits: ledger item x cannot be read"
    assert [each.topic_partition.partition for each in found.plans[0].ranges] == ([] if name == TOPIC else [1])
    made_before = Plan(0, (Range(AT, 0, 9),))
    assert not remaining_plan(made_before, known)
