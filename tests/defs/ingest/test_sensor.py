"""The sensor, evaluated against an ephemeral instance and memory doubles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from analytics_defs.adapters.memory import MemoryLedger
from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.ledger import BatchRecord, Checkpoint, ClosedRange, Lease, LedgerSnapshot
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.definitions import defs
from analytics_defs.defs.checks.balance import BALANCE_CHECK, all_offsets_accounted_for
from analytics_defs.defs.ingest.job import LANE_TAG, MICRO_BATCH_JOB, PLAN_TAG
from analytics_defs.errors import AccessDenied, InconsistentState, Unavailable
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import StoredObject
from tests.defs.memory_platform import HOUR, TOPIC, MemoryPlatform
from tests.flows.audit.test_hour import MiscountingLedger
from tests.proof.interceptors import Crashed, failing, intercept

NEXT_HOUR = "2024-01-15T11"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def platform() -> MemoryPlatform:
    return MemoryPlatform()


def requests(result: dg.SensorResult) -> list[dg.RunRequest]:
    return list(result.run_requests or [])


def materialized(result: dg.SensorResult) -> dict[str, int]:
    """Return the reported number of added events by hour."""
    return {
        str(event.partition): int(str(event.metadata["events added"].value))
        for event in result.asset_events
        if isinstance(event, dg.AssetMaterialization)
    }


def started(instance: dg.DagsterInstance, request: dg.RunRequest, *, queued: bool = False) -> dg.DagsterRun:
    """Create the run of a request as the daemon does. Its process never changes its status."""
    run = instance.create_run_for_job(
        defs.resolve_job_def(MICRO_BATCH_JOB),
        run_config=request.run_config,
        tags=dict(request.tags) | {"dagster/run_key": request.run_key or ""},
    )
    if not queued:
        instance.run_storage.handle_run_event(run.run_id, _start_event(run))
    return run


def _start_event(run: dg.DagsterRun) -> dg.DagsterEvent:
    return dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=run.job_name)


def test_a_backlog_becomes_one_request_with_its_ranges_in_the_run_config_only(
    platform: MemoryPlatform, instance: dg.DagsterInstance
) -> None:
    platform.produce(10)
    (request,) = requests(platform.tick(instance))
    assert request.run_config["ops"]["ingest_events"]["config"]["ranges"] == [
        {"topic_partition": f"{TOPIC}/0", "start": 0, "end": 5},
        {"topic_partition": f"{TOPIC}/1", "start": 0, "end": 5},
    ]
    assert request.tags.keys() == {LANE_TAG, PLAN_TAG}
    assert all(len(value) <= 16 for value in request.tags.values())


def test_a_lane_with_an_unfinished_run_gets_no_second_one(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    started(instance, requests(platform.tick(instance))[0], queued=True)
    platform.produce(10, start=10)
    assert requests(platform.tick(instance)) == []


def test_lanes_get_runs_in_parallel(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform(lanes=2)
    platform.produce(10)
    assert {request.tags[LANE_TAG] for request in requests(platform.tick(instance))} == {"0", "1"}


def test_a_topic_without_new_records_gives_a_skip_reason_and_no_request(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    first = platform.tick(instance)
    assert platform.run(instance, requests(first)[0]).success
    second = platform.tick(instance, first.cursor)
    assert requests(second) == []
    assert second.skip_reason is not None
    assert second.skip_reason.skip_message == "every partition is read to its end"


def test_a_failed_run_is_requested_again_after_its_backoff_under_a_new_key(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    (request,) = requests(platform.tick(instance))
    run = started(instance, request)
    instance.report_run_failed(run)
    tick = platform.tick(instance)
    assert requests(tick) == []
    assert tick.skip_reason is not None
    assert "attempt 2 waits" in str(tick.skip_reason.skip_message)
    platform.clock.advance(timedelta(minutes=5))
    (again,) = requests(platform.tick(instance))
    assert again.tags[PLAN_TAG] == request.tags[PLAN_TAG]
    assert again.run_key == f"{request.tags[PLAN_TAG]}#1"


def test_deleting_an_old_run_does_not_free_its_run_key(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    (request,) = requests(platform.tick(instance))
    first = started(instance, request)
    instance.report_run_failed(first)
    platform.clock.advance(timedelta(minutes=5))
    (second,) = requests(platform.tick(instance))
    instance.report_run_failed(started(instance, second))
    instance.delete_run(first.run_id)
    platform.clock.advance(timedelta(minutes=10))
    (third,) = requests(platform.tick(instance))
    assert third.run_key == f"{request.tags[PLAN_TAG]}#2"


def test_a_run_without_heartbeat_is_reported_failed_and_frees_its_lane(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    run = started(instance, requests(platform.tick(instance))[0])
    assert requests(platform.tick(instance)) == []
    platform.clock.advance(timedelta(minutes=3))
    statuses, request_counts, cursor = [], [], None
    for _ in range(6):
        tick = platform.tick(instance, cursor)
        cursor = tick.cursor
        stored_run = instance.get_run_by_id(run.run_id)
        assert stored_run is not None
        statuses.append(stored_run.status)
        request_counts.append(len(requests(tick)))
        platform.clock.advance(timedelta(seconds=15))
    assert statuses == [dg.DagsterRunStatus.STARTED] * 5 + [dg.DagsterRunStatus.FAILURE]
    assert request_counts == [0] * 5 + [1], "the minute without heartbeat counts as backoff"


def test_a_run_with_a_heartbeat_is_never_reported_failed(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    run = started(instance, requests(platform.tick(instance))[0])
    platform.clock.advance(timedelta(hours=2))
    platform.ports().ledger.renew_lease(Lease(run.run_id, 0, platform.clock.now()))
    assert requests(platform.tick(instance)) == []
    stored_run = instance.get_run_by_id(run.run_id)
    assert stored_run is not None
    assert stored_run.status is dg.DagsterRunStatus.STARTED


@pytest.mark.parametrize("clock_offset", [timedelta(minutes=-5), timedelta(minutes=5)])
def test_a_heartbeat_counts_whatever_the_clock_of_its_worker_shows(
    platform: MemoryPlatform, instance: dg.DagsterInstance, clock_offset: timedelta
) -> None:
    """Breaks: a run that renews its lease counts as dead, or a dead run does not, because the clocks of workers differ."""
    platform.produce(10)
    run = started(instance, requests(platform.tick(instance))[0])
    platform.clock.advance(timedelta(minutes=3))
    cursor, statuses = None, []
    for renews in [True] * 5 + [False] * 5:
        if renews:
            platform.ports().ledger.renew_lease(Lease(run.run_id, 0, platform.clock.now() + clock_offset))
        cursor = platform.tick(instance, cursor).cursor
        stored_run = instance.get_run_by_id(run.run_id)
        assert stored_run is not None
        statuses.append(stored_run.status)
        platform.clock.advance(timedelta(seconds=31))
    assert set(statuses[:6]) == {dg.DagsterRunStatus.STARTED}
    assert statuses[-1] is dg.DagsterRunStatus.FAILURE


def test_changed_hours_are_reported_once_and_again_after_a_lost_cursor(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    first = platform.tick(instance)
    platform.run(instance, requests(first)[0])
    second = platform.tick(instance, first.cursor)
    assert materialized(second) == {HOUR: 10}
    assert materialized(platform.tick(instance, second.cursor)) == {}
    assert materialized(platform.tick(instance, None)) == {HOUR: 10}


def test_an_hour_outside_the_partitions_is_stored_and_not_reported(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(2, hour="1969-12-31T23")
    first = platform.tick(instance)
    assert platform.run(instance, requests(first)[0]).success
    assert materialized(platform.tick(instance, first.cursor)) == {}
    assert platform.ports().ledger.counters()["events"] == 2


def test_lag_and_checks_are_reported_every_five_minutes(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    first = platform.tick(instance)
    (lag,) = [event for event in first.asset_events if isinstance(event, dg.AssetObservation)]
    assert lag.metadata["lag"].value == 10
    check = next(event for event in first.asset_events if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == BALANCE_CHECK)
    assert (check.check_name, check.passed) == (BALANCE_CHECK, True)
    platform.clock.advance(timedelta(minutes=4))
    assert platform.tick(instance, first.cursor).asset_events == []
    platform.clock.advance(timedelta(minutes=1))
    again = platform.tick(instance, first.cursor).asset_events
    assert [type(event) for event in again] == [dg.AssetObservation, *[dg.AssetCheckEvaluation] * 4]


class BusyLedger(MemoryLedger):
    """A ledger in which another run closes a batch before each snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshots = 0

    def snapshot(self) -> LedgerSnapshot:
        snapshot = super().snapshot()
        self.snapshots += 1
        partition = TopicPartition("elsewhere", 0, 0)
        return replace(snapshot, checkpoints={**snapshot.checkpoints, partition: Checkpoint(partition, 0, self.snapshots)})


def test_a_ledger_that_always_changes_costs_a_tick_few_reads_and_no_plan(instance: dg.DagsterInstance) -> None:
    platform, ledger = MemoryPlatform(), BusyLedger()
    platform._ports = replace(platform._ports, ledger=ledger)
    platform.produce(10)
    tick = platform.tick(instance)
    assert len(requests(tick)) == 1
    assert ledger.snapshots < 10


class UnreadableLedger(MemoryLedger):
    """A ledger with unreadable items: batch records, or the closed ranges of a partition, named in `damaged`."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[str] = set()

    def batch_record(self, batch_id: str) -> BatchRecord | None:
        if batch_id in self.damaged:
            raise InconsistentState(f"ledger item sk={batch_id} cannot be read.")
        return super().batch_record(batch_id)

    def closed_ranges_after(self, topic_partition: TopicPartition, offset: int, limit: int) -> Sequence[ClosedRange]:
        if str(topic_partition) in self.damaged:
            raise InconsistentState(f"ledger item pk=range#{topic_partition} cannot be read.")
        return super().closed_ranges_after(topic_partition, offset, limit)


def platform_with_a_damaged_ledger(instance: dg.DagsterInstance) -> tuple[MemoryPlatform, UnreadableLedger]:
    """Return a platform with two closed batches, of which the first is unreadable, and ten unread records.

    Each batch has an hour of its own and ranges of both partitions.
    """
    platform, ledger = MemoryPlatform(), UnreadableLedger()
    platform._ports = replace(platform._ports, ledger=ledger)
    for hour in (HOUR, NEXT_HOUR):
        platform.produce(10, start=10 * (hour == NEXT_HOUR), hour=hour)
        platform.run(instance)
        platform.clock.advance(timedelta(seconds=1))
    ledger.damaged.add(ledger.last_batches(2)[1].batch.id)
    platform.produce(10, start=20)
    return platform, ledger


def test_an_unreadable_batch_record_delays_the_report_of_its_hours_and_is_named(instance: dg.DagsterInstance) -> None:
    platform, ledger = platform_with_a_damaged_ledger(instance)
    (batch,) = ledger.damaged
    tick = platform.tick(instance)
    assert (len(requests(tick)), materialized(tick)) == (1, {NEXT_HOUR: 10})
    started(instance, requests(tick)[0])
    again = platform.tick(instance, tick.cursor)
    assert materialized(again) == {}
    assert f"ledger item sk={batch} cannot be read. Until then the hours that batch {batch} added to" in str(again.skip_reason)
    ledger.damaged.clear()
    repaired = platform.tick(instance, again.cursor)
    assert materialized(repaired) == {HOUR: 10}
    assert materialized(platform.tick(instance, repaired.cursor)) == {}


def test_a_staging_file_of_an_unreadable_batch_fails_no_run(instance: dg.DagsterInstance) -> None:
    platform, ledger = platform_with_a_damaged_ledger(instance)
    platform.ports().object_store.put([StoredObject(staging_key(next(iter(ledger.damaged))), b"", "application/octet-stream", {})])
    assert platform.run(instance).success


def test_a_closed_range_without_record_delays_the_report_of_its_hours(instance: dg.DagsterInstance) -> None:
    platform, ledger = platform_with_a_damaged_ledger(instance)
    del ledger._records[ledger.damaged.pop()]
    tick = platform.tick(instance)
    assert (len(requests(tick)), materialized(tick)) == (1, {NEXT_HOUR: 10})


def test_unreadable_closed_ranges_delay_the_report_of_their_partition_and_no_plan(instance: dg.DagsterInstance) -> None:
    platform, ledger = platform_with_a_damaged_ledger(instance)
    ledger.damaged = {f"{TOPIC}/0"}
    tick = platform.tick(instance)
    assert (len(requests(tick)), materialized(tick)) == (1, {HOUR: 10, NEXT_HOUR: 10})
    assert json.loads(tick.cursor or "")["reported"] == {f"{TOPIC}/1": 10}


def balanced(result: dg.SensorResult) -> bool:
    checks = [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    (check,) = [check for check in checks if check.check_name == BALANCE_CHECK]
    return check.passed


def test_a_stuck_batch_fails_the_balance_of_the_sensor_and_of_the_button(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    plan = plan_lanes([TOPIC], PlanningPolicy(), platform.ports()).plans[0]
    with pytest.raises(Crashed):
        execute_plan(plan, intercept(platform.ports(), failing("claim", True, lambda _: Crashed())), platform.ingest_options("dead"))
    assert balanced(platform.tick(instance))
    platform.clock.advance(timedelta(minutes=11))
    result: Any = all_offsets_accounted_for(platform=platform)
    assert (result.passed, balanced(platform.tick(instance))) == (False, False)


def test_counters_that_differ_fail_the_balance_of_the_sensor_and_of_the_run(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform._ports = replace(platform._ports, ledger=MiscountingLedger())
    platform.produce(10)
    assert not balanced(platform.tick(instance))
    result = platform.run(instance)
    assert result.success
    assert [check.check_name for check in result.get_asset_check_evaluations() if not check.passed] == ["all_offsets_accounted_for"]


def test_a_balance_that_cannot_be_read_stops_no_plan(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    platform._ports = intercept(platform._ports, failing("counters", False, lambda _: Unavailable("down")))
    assert len(requests(platform.tick(instance))) == 1


def test_a_missing_or_recreated_topic_is_named_in_the_skip_reason(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    first = platform.tick(instance)
    platform.run(instance, requests(first)[0])
    platform.log.delete_topic(TOPIC)
    assert f"topic {TOPIC} does not exist" in str(platform.tick(instance).skip_reason)
    platform.log.create_topic(TOPIC, 2)
    assert "analytics accept-recreated-topic" in str(platform.tick(instance).skip_reason)


def test_a_partition_without_leader_is_named_and_stops_nothing_else(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    platform.run(instance)
    platform.produce(10, start=10)
    platform.log.make_unavailable(TOPIC, 0)
    tick = platform.tick(instance)
    (request,) = requests(tick)
    assert [range_["topic_partition"] for range_ in request.run_config["ops"]["ingest_events"]["config"]["ranges"]] == [f"{TOPIC}/1"]
    assert materialized(tick) == {HOUR: 10}
    checks = [event for event in tick.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    (lag,) = [check for check in checks if check.check_name == "lag"]
    assert (lag.passed, lag.metadata["partitions unavailable"].value) == (False, 1)
    started(instance, request)
    assert f"{TOPIC}/0 is unavailable, the other partitions continue" in str(platform.tick(instance).skip_reason)


def test_group_offsets_that_an_operator_moved_are_corrected(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    first = platform.tick(instance)
    platform.run(instance, requests(first)[0])
    partition = next(iter(platform.ports().ledger.snapshot().checkpoints))
    platform.ports().event_log.commit({partition: 2})
    (request,) = requests(platform.tick(instance, first.cursor))
    assert request.run_config["ops"]["ingest_events"]["config"]["recommit"] == [str(partition)]
    assert platform.run(instance, request).success
    assert platform.ports().event_log.committed([partition]) == {partition: 5}


def test_a_run_that_was_never_submitted_frees_its_lane_after_the_start_timeout(
    platform: MemoryPlatform, instance: dg.DagsterInstance
) -> None:
    """Breaks: the daemon creates a run, its submission fails, and Dagster never submits it again. The lane would wait for it."""
    platform.produce(10)
    run = started(instance, requests(platform.tick(instance))[0], queued=True)
    assert run.status is dg.DagsterRunStatus.NOT_STARTED
    cursor, requested = None, []
    for _ in range(20):
        platform.clock.advance(timedelta(minutes=3))
        tick = platform.tick(instance, cursor)
        cursor = tick.cursor
        requested += requests(tick)
    assert requested


def test_the_daily_commit_of_quiet_partitions_waits_for_a_busy_lane(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    """Breaks: the offsets of a quiet topic expire, because its lane was busy when the commit was due."""
    platform.produce(10)
    first = platform.tick(instance)
    platform.run(instance, requests(first)[0])
    platform.log.append(TOPIC, 0, b"{}")
    second = platform.tick(instance, first.cursor)
    busy = started(instance, requests(second)[0])
    platform.clock.advance(timedelta(hours=25))
    platform.ports().ledger.renew_lease(Lease(busy.run_id, 0, platform.clock.now()))
    third = platform.tick(instance, second.cursor)
    assert requests(third) == []
    instance.report_run_failed(busy)
    platform.clock.advance(timedelta(hours=1))
    (request,) = requests(platform.tick(instance, third.cursor))
    assert request.run_config["ops"]["ingest_events"]["config"]["recommit"] == [f"{TOPIC}/1"]


def test_a_small_plan_waits_for_more_up_to_its_limit(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform(batch_max_wait=timedelta(seconds=30))
    platform.produce(10)
    first = platform.tick(instance)
    assert requests(first) == []
    platform.clock.advance(timedelta(seconds=30))
    assert len(requests(platform.tick(instance, first.cursor))) == 1


class UnavailablePlatform(MemoryPlatform):
    """A platform whose ports raise an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def ports(self):  # type: ignore[no-untyped-def]
        raise self._error


def test_an_unavailable_broker_is_the_skip_reason(instance: dg.DagsterInstance) -> None:
    result = UnavailablePlatform(Unavailable("Kafka at localhost:9092 does not answer")).tick(instance)
    assert str(result.skip_reason.skip_message if result.skip_reason else "") == "Kafka at localhost:9092 does not answer"


def test_an_error_that_is_not_retryable_fails_the_tick(instance: dg.DagsterInstance) -> None:
    with pytest.raises(dg.Failure, match="the key is refused"):
        UnavailablePlatform(AccessDenied("the key is refused")).tick(instance)


def test_the_cursor_is_small_json_without_events(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(10)
    first = platform.tick(instance)
    platform.run(instance, requests(first)[0])
    assert json.loads(platform.tick(instance, first.cursor).cursor or "")["reported"] == {f"{TOPIC}/0": 5, f"{TOPIC}/1": 5}


FOREIGN_CURSORS = [
    "reset me",
    "5",
    "[]",
    '"text"',
    '{"reported": 5}',
    '{"reported": {"ProductDeleted/0": "x"}}',
    '{"observed_at": "yesterday"}',
    '{"observed_at": "2024-01-15"}',
    '{"recommitted_at": {"x": "2024-01-15T10:00:00+00:00"}}',
    '{"small_since": {"0": 5}}',
    '{"leases": {"run": 5}}',
    '{"leases": {"run": {"renewed_at": null, "observed_at": "2024-01-15T10:00:00"}}}',
]


@pytest.mark.parametrize("cursor", FOREIGN_CURSORS)
def test_a_cursor_that_the_sensor_did_not_write_counts_as_lost(platform: MemoryPlatform, instance: dg.DagsterInstance, cursor: str) -> None:
    platform.produce(10)
    expected = platform.tick(instance)
    result = platform.tick(instance, cursor)
    assert [request.run_config for request in requests(result)] == [request.run_config for request in requests(expected)]
    assert result.cursor == expected.cursor
