"""What a run of the job promises, whoever starts it."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest

from analytics_defs.adapters.memory import MemoryArchive
from analytics_defs.adapters.system import YOUNG
from analytics_defs.core.layout import staging_key
from analytics_defs.core.ledger import Batch
from analytics_defs.definitions import defs
from analytics_defs.defs.ingest import micro_batch_job
from analytics_defs.defs.platform import failures
from analytics_defs.errors import AnalyticsError, Denied, GroupInUse, Unavailable
from analytics_defs.ports import Blob, Ports
from analytics_defs.wiring import code_digest
from tests.defs.memory_platform import MemoryPlatform

ASSETS = {"recent_events", "event_json", "dead_letters", "live_aggregates", "committed_offsets"}
TOLD = ("ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, object]]:
    return {
        event.asset_key.to_user_string(): {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def test_a_run_materializes_every_asset_with_numbers_that_plot(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.log.append("ProductDeleted", 0, b"not json")
    found = materialized(platform.run(instance, (platform.tick(instance).run_requests or [])[0]))
    assert found.keys() == ASSETS
    assert found["recent_events"]["dagster/row_count"] == 10
    assert {"wall seconds", "thread-seconds by step"} <= found["recent_events"].keys()
    assert found["dead_letters"] | {"files": []} == {"dead letters": 1, "share": round(1 / 11, 6), "files": [], "reason not_json": 1}
    assert found["live_aggregates"]["unaccounted"] == 0
    assert found["committed_offsets"]["offsets"] == 11


def test_python_looks_for_cycles_seldom_while_events_move_and_as_before_when_they_have(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, before, meanwhile = MemoryPlatform(), gc.get_threshold(), []
    really_take = platform.ports().ledger.take

    def take(batch: Batch) -> bool:
        meanwhile.append(gc.get_threshold())
        return really_take(batch)

    monkeypatch.setattr(platform.ports().ledger, "take", take)
    platform.produce(10)
    assert platform.run(instance, (platform.tick(instance).run_requests or [])[0]).success
    assert meanwhile == [(YOUNG, *before[1:])]
    assert gc.get_threshold() == before


def test_a_run_says_after_its_materializations_that_the_account_balances(instance: dg.DagsterInstance) -> None:
    """A check that is older than its asset's last materialization shows as not evaluated."""
    platform = MemoryPlatform()
    platform.produce(10)
    result = platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    told = [each.event_type_value for each in result.all_events if each.event_type_value in TOLD]
    assert told == ["ASSET_MATERIALIZATION"] * len(ASSETS) + ["ASSET_CHECK_EVALUATION"]


def test_a_run_of_a_closed_plan_yields_nothing_and_succeeds(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    platform.run(instance, request)
    again = platform.run(instance, request)
    assert again.success
    assert materialized(again) == {}
    assert platform.ports().ledger.counters()["events"] == 10


def test_a_run_of_the_sensors_goes_on_with_what_arrives_and_tells_all_of_it(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    first = platform.tick(instance)
    (request,) = first.run_requests or []
    platform.clock.happens = [lambda: platform.produce(5, start=10)]
    found = materialized(platform.run(instance, request))
    assert (found["recent_events"]["events"], found["recent_events"]["batches"]) == (15, 2)
    assert platform.tick(instance, first.cursor).run_requests == []


@pytest.mark.parametrize("who", ["an old plan", "the button", "no time"])
def test_nobody_else_goes_on_with_what_arrives(instance: dg.DagsterInstance, who: str) -> None:
    platform = MemoryPlatform(follow_for=timedelta(0) if who == "no time" else timedelta(seconds=20))
    platform.produce(10)
    request = None if who == "the button" else (platform.tick(instance).run_requests or [])[0]
    if who == "an old plan":
        platform.run(instance, request)
    platform.clock.happens, platform.clock.slept = [lambda: platform.produce(5, start=10)], []
    assert platform.run(instance, request).success
    assert platform.clock.slept == []
    assert platform.ports().ledger.counters()["events"] == 10


@pytest.mark.parametrize("lane", [-1, -2])
def test_a_lane_that_is_none_is_refused_before_anything_is_counted_in_it(instance: dg.DagsterInstance, lane: int) -> None:
    """Breaks: lanes below 0 are those of redrives and adjustments; a plan edited in the UI must not count there."""
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    request.run_config["ops"]["move_events"]["config"]["lane"] = lane
    assert not platform.run(instance, request).success
    assert platform.ports().ledger.counters_by_lane() == {}


def test_the_materialize_button_plans_once_for_every_lane(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform(lanes=2)
    platform.produce(10)
    result = platform.run(instance)
    assert result.success
    assert materialized(result)["recent_events"]["events"] == 10


class FailingArchive(MemoryArchive):
    """Refuses every object below a prefix."""

    def __init__(self, prefix: str, fault: AnalyticsError) -> None:
        super().__init__()
        self.prefix, self.fault = prefix, fault

    def put(self, blobs: Sequence[Blob]) -> None:
        if any(blob.key.startswith(self.prefix) for blob in blobs):
            raise self.fault
        super().put(blobs)


class FailingPlatform(MemoryPlatform):
    """Its bucket fails until it is mended."""

    def __init__(self, fault: AnalyticsError) -> None:
        super().__init__()
        self.archive = FailingArchive("parquet/", fault)
        self._ports = replace(self._ports, archive=self.archive)

    def ports(self) -> Ports:
        return self._ports


@pytest.mark.parametrize("fault", [Unavailable("MinIO at http://x, bucket b: no answer"), Denied("MinIO at http://x, bucket b: 403")])
def test_a_fault_fails_the_run_with_its_message_and_commits_nothing(instance: dg.DagsterInstance, fault: AnalyticsError) -> None:
    platform = FailingPlatform(fault)
    platform.produce(10)
    result = platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    (failed,) = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    assert not result.success
    assert failed.step_failure_data.user_failure_data is not None
    assert failed.step_failure_data.user_failure_data.description == str(fault)
    assert platform.ports().log.committed(platform.ports().ledger.snapshot().heads) == dict.fromkeys(
        platform.ports().ledger.snapshot().heads
    )


@pytest.mark.parametrize("fault", [Unavailable("no answer"), Denied("403")])
def test_dagster_hears_whether_trying_again_may_help(fault: AnalyticsError) -> None:
    with pytest.raises(dg.Failure) as raised, failures():
        raise fault
    assert raised.value.allow_retries is fault.retryable
    assert raised.value.description == str(fault)


def test_the_next_run_finishes_what_a_failed_one_left(instance: dg.DagsterInstance) -> None:
    platform = FailingPlatform(Unavailable("down"))
    platform.produce(10)
    platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    assert len(platform.ports().ledger.snapshot().pending) == 1
    platform.archive.prefix = "nothing/"
    result = platform.run(instance)
    assert materialized(result)["recent_events"]["events"] == 10
    assert platform.ports().ledger.snapshot().pending == {}


def test_retries_are_the_sensors_alone() -> None:
    assert (micro_batch_job.tags or {})["dagster/max_retries"] == "0"
    assert all(op.retry_policy is None for op in defs.resolve_job_def("micro_batch").nodes_in_topological_order)


def test_a_run_removes_staging_files_that_a_dead_one_left_of_closed_batches(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    (closed,) = platform.ports().ledger.last_batches(1)
    platform.ports().archive.put([Blob(staging_key(closed.batch.id), b"left", "", {}), Blob(staging_key("not-ours"), b"kept", "", {})])
    platform.run(instance)
    assert list(platform.ports().archive.keys(staging_key(""))) == [staging_key("not-ours")]


def test_a_run_whose_offsets_are_refused_moves_everything_sweeps_and_fails_with_the_refusal(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise GroupInUse("another consumer is a member of the group")

    platform = MemoryPlatform(lanes=2)
    platform.produce(10)
    platform.run(instance)
    left = staging_key(platform.ports().ledger.last_batches(1)[0].batch.id)
    platform.ports().archive.put([Blob(left, b"left", "", {})])
    platform.produce(10, start=10)
    monkeypatch.setattr(platform.log, "commit", refuse)
    result = platform.run(instance)
    assert not result.success
    assert platform.ports().ledger.counters()["events"] == 20, "the second lane was tried after the first one's refusal"
    assert list(platform.ports().archive.keys(staging_key(""))) == []


def test_a_run_that_other_code_planned_is_refused_before_anything_is_touched(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    config = request.run_config["ops"]["move_events"]["config"]
    assert config["code"] == code_digest()
    config["code"] = "0123456789ab"
    result = platform.run(instance, request)
    assert not result.success
    (failed,) = [each for each in result.all_node_events if each.is_step_failure]
    assert f"has the digest 0123456789ab, that of the worker on {socket.gethostname()} is {code_digest()}" in str(failed.step_failure_data)
    assert platform.ports().ledger.snapshot().heads == {}
    config["code"] = ""
    assert platform.run(instance, request).success
