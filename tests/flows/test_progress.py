"""Offsets: the start of reading, gaps, unavailable partitions, data loss, and the consumer group's offsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from analytics_defs.adapters.memory import Marker, MemoryEventLog
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ingest.planning import OnDataLoss, PlanningPolicy
from analytics_defs.core.ledger import Gap, GapReason, OutcomeCounts
from analytics_defs.core.offsets import Range, Record
from analytics_defs.errors import CorruptRecordBatch, DataLoss, ResourceNotReady, Unavailable
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.ingest.accept_topic import accept_recreated_topic
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.trace.outcome import RecordOutcome
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import ReadResult
from tests.flows.ingest.test_execute_plan import failing_at, problems
from tests.proof.interceptors import Call, Crashed, intercept
from tests.proof.world import TOPIC, World, event, ingest_options


def events(count: int, prefix: str = "e") -> list[bytes]:
    return [event(f"{prefix}{number}") for number in range(count)]


def a_world(**settings: Any) -> World:
    world = World(**settings)
    world.create(partitions=2)
    return world


def committed(world: World, partition: int = 0) -> int | None:
    return world.event_log.committed([world.partition(partition)])[world.partition(partition)]


# The start of reading.


def test_the_first_run_starts_at_the_committed_offsets_of_the_group() -> None:
    world = a_world()
    world.produce(*events(5))
    world.produce(*events(3, "f"), partition=1)
    world.event_log.commit({world.partition(0): 3})
    world.settle()
    assert problems(world) == []
    assert sorted(world.recent_events.items) == ["e3", "e4", "f0", "f1", "f2"]
    assert trace_record(str(world.source(2)), world.ports).outcome is RecordOutcome.BEFORE_START


def test_a_committed_offset_beyond_the_log_is_ignored() -> None:
    world = a_world()
    world.produce(*events(2))
    world.event_log.commit({world.partition(0): 7})
    world.settle()
    assert problems(world) == []
    assert sorted(world.recent_events.items) == ["e0", "e1"]


def test_without_committed_offsets_reading_starts_at_the_oldest_record() -> None:
    world = a_world()
    world.produce(*events(5))
    world.event_log.retain_from(TOPIC, 0, 2)
    world.settle()
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3)


def test_a_partition_that_is_added_later_is_read_from_its_start() -> None:
    world = a_world()
    world.produce(*events(1))
    world.settle()
    world.event_log.add_partition(TOPIC)
    world.produce(*events(3, "f"), partition=2)
    world.event_log.retain_from(TOPIC, 2, 1)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, lost=1)


def test_the_start_offsets_of_a_topic_are_stored_before_its_first_batch() -> None:
    """Retention and the group move offsets between two runs without a batch. The start offsets stay those of the first run."""
    world = a_world()
    world.produce(*events(5))
    world.produce(*events(5, "f"), partition=1)
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("open_topic")))
    world.event_log.commit({world.partition(1): 4})
    world.event_log.retain_from(TOPIC, 0, 2)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=8, lost=2)


def test_a_topic_that_was_deleted_after_the_plan_is_named() -> None:
    world = a_world()
    world.produce(*events(1))
    plan = world.plan().plans[0]
    world.event_log.delete_topic(TOPIC)
    with pytest.raises(ResourceNotReady, match="topic ProductDeleted does not exist any more"):
        execute_plan(plan, world.ports, ingest_options())


# Unavailable partitions.


def test_a_partition_without_leader_waits_and_the_others_continue() -> None:
    world = a_world()
    world.produce(*events(2))
    world.produce(*events(2, "f"), partition=1)
    world.settle()
    world.produce(event("e2"))
    world.produce(event("f2"), partition=1)
    world.event_log.make_unavailable(TOPIC, 0)
    planning = world.plan()
    assert planning.unavailable.keys() == {world.partition(0)}
    assert (
        "ProductDeleted/0 is unavailable, the other partitions continue: ProductDeleted/0: leader not available"
        in planning.unavailable.values()
    )
    assert [lag.topic_partition for lag in planning.lags] == [world.partition(1)]
    world.settle()
    assert ("e2" in world.recent_events.items, "f2" in world.recent_events.items) == (False, True)
    world.event_log.make_available(TOPIC, 0)
    world.settle()
    assert problems(world) == []


def test_a_new_topic_waits_until_all_of_its_partitions_are_available() -> None:
    """Otherwise the committed offset of an unavailable partition would be ignored, and its records read again."""
    world = a_world()
    world.produce(*events(5))
    world.produce(*events(5, "f"), partition=1)
    world.event_log.commit({world.partition(0): 3, world.partition(1): 3})
    plan = world.plan().plans[0]
    world.event_log.make_unavailable(TOPIC, 1)
    planning = world.plan()
    assert not any(planning.plans)
    assert "topic ProductDeleted is new to the ledger, and 1 of its partitions are unavailable" in planning.notes[0]
    with pytest.raises(Unavailable, match="is new to the ledger"):
        execute_plan(plan, world.ports, ingest_options())
    world.event_log.make_available(TOPIC, 1)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=4)


@pytest.mark.parametrize(("method", "stored"), [("begin_batch", 1), ("mark_staged", 3)])
def test_a_pending_batch_of_an_unavailable_partition_delays_no_other(method: str, stored: int) -> None:
    world = a_world()
    world.event_log.add_partition(TOPIC)
    world.produce(event("e"))
    world.produce(event("f"), partition=1)
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at(method)))
    world.produce(event("g"), partition=2)
    world.event_log.make_unavailable(TOPIC, 0)
    world.settle()
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=stored)
    world.event_log.make_available(TOPIC, 0)
    world.settle()
    assert problems(world) == []


def test_a_truncated_topic_is_not_accepted_while_a_partition_is_unavailable() -> None:
    world = a_world()
    world.produce(*events(3))
    world.settle()
    world.event_log.truncate(TOPIC, 0, 1)
    world.event_log.make_unavailable(TOPIC, 1)
    with pytest.raises(Unavailable, match="once all of its partitions are available"):
        accept_recreated_topic(TOPIC, world.ports)


# Offsets without record.


def test_an_open_transaction_holds_back_its_own_partition_only() -> None:
    world = a_world()
    world.produce(event("before"))
    world.event_log.open_transaction(TOPIC, 0)
    world.produce(event("inside"), event("inside too"))
    world.produce(*events(2), partition=1)
    world.settle()
    assert sorted(world.recent_events.items) == ["before", "e0", "e1"]
    lags = {lag.topic_partition.partition: (lag.offsets, lag.transaction_lag) for lag in world.plan().lags}
    assert lags == {0: (2, 2), 1: (0, 0)}
    world.event_log.end_transaction(TOPIC, 0, commit=True)
    world.settle()
    assert problems(world) == []
    assert "inside" in world.recent_events.items
    assert sum(lag.offsets for lag in world.plan().lags) == 0


def test_aborted_records_are_not_stored_and_are_gaps_with_their_reason() -> None:
    world = a_world()
    world.event_log.open_transaction(TOPIC, 0)
    world.produce(event("never"), event("never too"))
    world.event_log.end_transaction(TOPIC, 0, commit=False)
    world.produce(event("a"))
    world.event_log.append_marker(TOPIC, 0, Marker.COMPACTED)
    world.settle()
    assert problems(world) == []
    (record,) = world.ledger.last_batches(10)
    topic_partition = world.partition(0)
    assert record.gaps == (
        Gap(Range(topic_partition, 0, 2), GapReason.ABORTED),
        Gap(Range(topic_partition, 2, 3), GapReason.CONTROL),
        Gap(Range(topic_partition, 4, 5), GapReason.COMPACTED),
    )
    assert trace_record(str(world.source(0)), world.ports).detail == "aborted"


def test_a_record_that_the_client_did_not_return_is_read_again() -> None:
    world = a_world()
    world.produce(*events(3))
    world.event_log.hide(TOPIC, 0, 1)
    with pytest.raises(Unavailable, match="has to be read again"):
        world.run()
    assert world.ledger.snapshot().pending == {}
    world.settle()
    assert problems(world) == []
    assert sorted(world.recent_events.items) == ["e0", "e1", "e2"]


class LogWithoutEvidence(MemoryEventLog):
    """An event log that explains no gap."""

    def explain_gaps(self, uncovered: Sequence[Range]) -> tuple[Gap, ...]:  # noqa: ARG002 - the port's signature
        return ()


def test_offsets_without_evidence_stay_unaccounted_and_visible() -> None:
    world = a_world(event_log=LogWithoutEvidence())
    world.produce(*events(1))
    world.event_log.append(TOPIC, 0, event("never"), aborted=True)
    world.settle()
    world.produce(*events(1, "f"))
    world.settle()
    audit = audit_offsets(world.ports)
    assert (audit.unaccounted, audit.balanced) == (1, False)
    assert world.ledger.counters()["unaccounted"] == 1
    assert trace_record(str(world.source(1)), world.ports).outcome is RecordOutcome.UNACCOUNTED
    assert sorted(world.recent_events.items) == ["e0", "f0"]


class EmptyReadLog(MemoryEventLog):
    """An event log that returns neither records nor errors."""

    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult:  # noqa: ARG002 - the port's signature
        return ReadResult((), {range_.topic_partition: range_.start for range_ in ranges}, ())


def test_a_read_that_returns_nothing_is_a_fault_and_begins_no_batch() -> None:
    world = a_world(event_log=EmptyReadLog())
    world.produce(*events(2))
    with pytest.raises(Unavailable, match="Kafka returned nothing"):
        world.run()
    assert world.ledger.snapshot().checkpoints == {}


# Corrupt record batches in Kafka.


def test_a_corrupt_record_batch_halts_its_partition_and_the_others_are_read() -> None:
    world = a_world()
    world.produce(*events(6))
    world.produce(*events(9, "f"), partition=1)
    world.event_log.damage(TOPIC, 0, 3)
    with pytest.raises(CorruptRecordBatch, match="ProductDeleted/0: the record batch at offset 3"):
        world.run(by=ingest_options(limits=BatchLimits(max_records=4)))
    assert set(world.recent_events.items) == {*(f"e{number}" for number in range(3)), *(f"f{number}" for number in range(9))}
    assert (committed(world), committed(world, 1)) == (3, 9)
    assert world.ledger.snapshot().pending == {}
    world.event_log.repair(TOPIC, 0, 3)
    world.settle()
    assert problems(world) == []


def test_a_plan_of_a_corrupt_partition_begins_no_batch_and_names_it_each_time() -> None:
    world = a_world()
    world.produce(*events(2))
    world.event_log.damage(TOPIC, 0, 0)
    for _ in range(2):
        with pytest.raises(CorruptRecordBatch):
            world.run()
    assert world.ledger.snapshot().checkpoints == {}
    world.produce(*events(1, "f"), partition=1)
    with pytest.raises(CorruptRecordBatch):
        world.run()
    assert set(world.recent_events.items) == {"f0"}


def test_a_pending_batch_with_a_corrupt_record_batch_delays_no_other() -> None:
    world = a_world()
    world.produce(*events(4))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("begin_batch")))
    world.event_log.damage(TOPIC, 0, 2)
    world.produce(*events(1, "f"), partition=1)
    with pytest.raises(CorruptRecordBatch):
        world.run()
    assert set(world.recent_events.items) == {"f0"}
    assert list(world.object_store.list_keys("staging/")) == []
    world.event_log.repair(TOPIC, 0, 2)
    world.settle()
    assert problems(world) == []


def test_a_corrupt_record_batch_that_an_operator_deletes_is_counted_as_lost() -> None:
    world = a_world()
    world.produce(*events(6))
    world.event_log.damage(TOPIC, 0, 3)
    with pytest.raises(CorruptRecordBatch):
        world.run()
    world.event_log.retain_from(TOPIC, 0, 4)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=5, lost=1)


# Data loss by Kafka's retention.


def test_records_removed_before_they_were_read_are_lost_and_counted_exactly() -> None:
    world = a_world()
    world.produce(*events(2))
    world.settle()
    world.produce(*events(6, "f"))
    world.event_log.retain_from(TOPIC, 0, 5)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=5, lost=3)
    (record, _) = world.ledger.last_batches(2)
    assert record.lost == (Range(world.partition(0), 2, 5),)
    assert [trace_record(str(world.source(offset)), world.ports).outcome for offset in (1, 2, 4, 5)] == [
        RecordOutcome.STORED,
        RecordOutcome.LOST,
        RecordOutcome.LOST,
        RecordOutcome.STORED,
    ]


def test_all_records_of_a_batch_may_be_lost() -> None:
    world = a_world()
    world.produce(*events(1))
    world.settle()
    world.produce(*events(4, "f"))
    world.event_log.retain_from(TOPIC, 0, 5)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, lost=4)


def test_staged_records_survive_the_retention_of_kafka() -> None:
    world = a_world()
    world.produce(*events(4))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("put_if_absent")))
    world.event_log.retain_from(TOPIC, 0, 4)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=4)


def test_records_of_an_unstaged_batch_can_be_lost_to_retention() -> None:
    world = a_world()
    world.produce(*events(4))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("begin_batch")))
    world.event_log.retain_from(TOPIC, 0, 3)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, lost=3)


def test_on_data_loss_stop_halts_only_the_partition() -> None:
    world = a_world(policy=PlanningPolicy(on_data_loss=OnDataLoss.STOP))
    world.produce(*events(1))
    world.settle()
    world.produce(*events(4, "f"))
    world.produce(*events(2, "g"), partition=1)
    world.event_log.retain_from(TOPIC, 0, 3)
    world.settle()
    assert list(world.plan().halted) == [world.partition(0)]
    assert "retention removed [1, 3)" in world.plan().halted[world.partition(0)]
    assert sorted(world.recent_events.items) == ["e0", "g0", "g1"]
    world.policy = PlanningPolicy()
    world.settle()
    assert problems(world) == []


@pytest.mark.parametrize("before", ["read", "put_if_absent"], ids=["before the first read", "before a begun batch is read again"])
def test_on_data_loss_stop_also_applies_to_losses_after_the_plan(before: str) -> None:
    world = a_world(policy=PlanningPolicy(on_data_loss=OnDataLoss.STOP))
    world.produce(*events(1))
    world.settle()
    world.produce(*events(4, "f"))
    options = ingest_options(on_data_loss=OnDataLoss.STOP)
    if before == "put_if_absent":
        with pytest.raises(Crashed):
            world.run(ports=intercept(world.ports, failing_at("begin_batch")))
    plan = world.plan().plans[0]
    world.event_log.retain_from(TOPIC, 0, 3)
    with pytest.raises(DataLoss, match=r"retention removed ProductDeleted/0\[1,3\)"):
        execute_plan(plan, world.ports, options)
    assert world.ledger.counters().get("lost", 0) == 0
    world.policy = PlanningPolicy()
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, lost=2)


# Offsets of the consumer group.


@pytest.mark.parametrize("moved_to", [0, 2, 9])
def test_a_committed_offset_that_an_operator_moved_is_reported_and_reset(moved_to: int) -> None:
    world = a_world()
    world.produce(*events(4))
    world.settle()
    world.event_log.commit({world.partition(0): moved_to})
    planning = world.plan()
    assert planning.plans[0].recommit == (world.partition(0),)
    assert planning.notes == (f"ProductDeleted/0: the group's offset is {moved_to}, the ledger's 4: the ledger decides",)
    world.settle()
    assert committed(world) == 4
    assert world.ledger.counters()["events"] == 4


def test_offsets_are_committed_by_the_next_run_after_a_crash_behind_the_close() -> None:
    world = a_world()
    world.produce(*events(4))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("close_batch")))
    assert committed(world) is None
    assert len(world.object_store.objects) == 6
    world.run()
    assert committed(world) == 4
    assert len(delete_stale_staging_files(world.ports)) == 1
    assert problems(world) == []


def test_a_late_commit_is_corrected_by_the_next_plan() -> None:
    world = a_world()
    world.produce(*events(2))

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "commit":
            world.produce(*events(2, "f"))
            world.run()
        return perform()

    world.run(ports=intercept(world.ports, interceptor))
    assert committed(world) == 2
    world.run()
    assert committed(world) == 4
    assert problems(world) == []


# Lanes.


def test_a_pending_batch_is_finished_after_the_number_of_lanes_changed() -> None:
    world = a_world(policy=PlanningPolicy(lanes=1))
    world.produce(*events(2))
    world.produce(*events(2, "f"), partition=1)
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("claim")))
    world.policy = PlanningPolicy(lanes=5)
    planning = world.plan()
    assert [plan.pending_batch_ids != () for plan in planning.plans].count(True) == 1
    assert not any(plan.ranges for plan in planning.plans)
    world.settle()
    assert problems(world) == []
    (record,) = world.ledger.last_batches(10)
    assert record.batch.lane == 0


def test_counters_sum_over_all_lanes_after_their_number_changed() -> None:
    world = a_world(policy=PlanningPolicy(lanes=2))
    for lanes in (2, 3, 1):
        world.policy = PlanningPolicy(lanes=lanes)
        world.produce(*events(3, f"a{lanes}"))
        world.produce(*events(3, f"b{lanes}"), partition=1)
        world.settle()
    assert problems(world) == []
    assert world.ledger.counters()["events"] == 18
