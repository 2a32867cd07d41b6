"""What a run of the job promises, whoever starts it."""

from __future__ import annotations

import gc
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.utils import make_new_run_id

import analytics_defs
from analytics_defs.adapters.memory import MemoryObjectStore
from analytics_defs.adapters.runtime.system import GC_GENERATION0_THRESHOLD
from analytics_defs.core.ingest.planning import lane_of
from analytics_defs.core.ledger import Batch, LedgerSnapshot
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.definitions import defs
from analytics_defs.defs.ingest.job import micro_batch_job
from analytics_defs.defs.resources.platform import as_dagster_failures
from analytics_defs.errors import AccessDenied, AnalyticsError, ConsumerGroupActive, Unavailable
from analytics_defs.ports import Ports, StoredObject
from analytics_defs.wiring import code_digest
from tests.defs.memory_platform import MemoryPlatform

ASSETS = {"recent_events", "event_json", "dead_letters", "event_counters", "committed_offsets"}
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


def events_told(result: dg.ExecuteInProcessResult) -> list[int]:
    """By each report of the run in turn."""
    told = [each.materialization for each in result.get_asset_materialization_events()]
    return [int(str(each.metadata["events"].value)) for each in told if each.asset_key == dg.AssetKey("recent_events")]


def test_a_run_materializes_every_asset_with_numbers_that_plot(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.log.append("ProductDeleted", 0, b"not json")
    found = materialized(platform.run(instance, (platform.tick(instance).run_requests or [])[0]))
    assert found.keys() == ASSETS
    assert found["recent_events"]["events"] == 10
    assert {"wall seconds", "thread-seconds by step"} <= found["recent_events"].keys()
    assert found["dead_letters"] | {"files": []} == {"dead letters": 1, "share": round(1 / 11, 6), "files": [], "reason not_json": 1}
    assert found["event_counters"]["unaccounted"] == 0
    assert found["committed_offsets"]["offsets"] == 11


def test_python_looks_for_cycles_seldom_while_events_move_and_as_before_when_they_have(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, before, meanwhile = MemoryPlatform(), gc.get_threshold(), []
    really_take = platform.ports().ledger.begin_batch

    def take(batch: Batch) -> bool:
        meanwhile.append(gc.get_threshold())
        return really_take(batch)

    monkeypatch.setattr(platform.ports().ledger, "begin_batch", take)
    platform.produce(10)
    assert platform.run(instance, (platform.tick(instance).run_requests or [])[0]).success
    assert meanwhile == [(GC_GENERATION0_THRESHOLD, *before[1:])]
    assert gc.get_threshold() == before


def test_a_run_evaluates_the_checks_after_its_materializations(instance: dg.DagsterInstance) -> None:
    """A check that is older than its asset's last materialization shows as not evaluated."""
    platform = MemoryPlatform()
    platform.produce(10)
    result = platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    told = [each.event_type_value for each in result.all_events if each.event_type_value in TOLD]
    assert told == ["ASSET_MATERIALIZATION"] * len(ASSETS) + ["ASSET_CHECK_EVALUATION"] * 4


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
    assert events_told(platform.run(instance, request)) == [10, 5]
    assert platform.tick(instance, first.cursor).run_requests == []


def test_a_run_that_goes_on_tells_what_it_did_while_it_works(instance: dg.DagsterInstance) -> None:
    """The plan's own batches a moment after they were closed, the others every twenty seconds: nobody looks at an empty graph meanwhile."""
    platform = MemoryPlatform(tail_duration=timedelta(minutes=2))
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    numbers = count(10)
    platform.clock.happens = [lambda: platform.produce(1, start=next(numbers))] * 30
    result = platform.run(instance, request)
    assert events_told(result) == [10, 20, 10]
    told = [each.event_type_value for each in result.all_events if each.event_type_value in TOLD]
    assert told == (["ASSET_MATERIALIZATION"] * len(ASSETS) + ["ASSET_CHECK_EVALUATION"] * 4) * 3


def test_a_run_that_goes_on_outlives_a_storage_that_is_away(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    starts = count(10, 5)
    platform.clock.happens = [lambda: platform.produce(5, start=next(starts))] * 8
    asked: list[object] = []

    def is_away(*_: object, **__: object) -> list[object]:
        asked.append(None)
        raise ConnectionError("server closed the connection unexpectedly")

    monkeypatch.setattr(type(instance), "get_run_records", is_away)
    assert sum(events_told(platform.run(instance, request))) == 50
    assert asked


@pytest.mark.parametrize(("status", "looks"), [("NOT_STARTED", 15), ("STARTING", 15), ("STARTED", 40), ("SUCCESS", 40)])
def test_a_run_that_goes_on_leaves_its_place_to_one_that_waits_for_it(instance: dg.DagsterInstance, status: str, looks: int) -> None:
    """Breaks: fewer places than lanes, and one lane stands still for as long as the others are followed."""
    platform = MemoryPlatform(tail_duration=timedelta(seconds=40), tail_interval=timedelta(seconds=1))
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    instance.add_run(dg.DagsterRun("micro_batch", make_new_run_id(), status=dg.DagsterRunStatus[status]))
    numbers = count(10)
    platform.clock.happens = [lambda: platform.produce(1, start=next(numbers))] * 50
    assert platform.run(instance, request).success
    assert len(platform.clock.slept) == pytest.approx(looks, abs=1)


@pytest.mark.parametrize("who", ["an old plan", "the button", "no time"])
def test_nobody_else_goes_on_with_what_arrives(instance: dg.DagsterInstance, who: str) -> None:
    platform = MemoryPlatform(tail_duration=timedelta(0) if who == "no time" else timedelta(seconds=20))
    platform.produce(10)
    request = None if who == "the button" else (platform.tick(instance).run_requests or [])[0]
    if who == "an old plan":
        platform.run(instance, request)
    platform.clock.happens, platform.clock.slept = [lambda: platform.produce(5, start=10)], []
    assert platform.run(instance, request).success
    assert platform.clock.slept == []
    assert platform.ports().ledger.counters()["events"] == 10


@pytest.mark.parametrize("there", [1, 2, 5])
def test_a_run_follows_its_lane_as_lanes_were_when_it_was_planned(instance: dg.DagsterInstance, there: int) -> None:
    """Breaks: another LANES takes a restart of the code server alone, so the worker's may be any."""
    platform = MemoryPlatform(lanes=2)
    platform.produce(10)
    for request in platform.tick(instance).run_requests or []:
        platform._settings = platform._settings.model_copy(update={"lanes": there})
        before = ends(platform)
        platform.clock.happens = [lambda: platform.produce(10, start=10)]
        assert platform.run(instance, request).success
        (own,) = [each for each, end in ends(platform).items() if end > before.get(each, 0)]
        assert str(lane_of(own, 2)) == request.tags["analytics/lane"]
        assert ends(platform)[own] == platform.ports().event_log.watermarks([own])[own].high_watermark


def ends(platform: MemoryPlatform) -> dict[TopicPartition, int]:
    return {each: head.next_offset for each, head in platform.ports().ledger.snapshot().checkpoints.items()}


@pytest.mark.parametrize("lane", [-1, -2])
def test_a_lane_that_is_none_is_refused_before_anything_is_counted_in_it(instance: dg.DagsterInstance, lane: int) -> None:
    """Breaks: lanes below 0 are those of redrives and adjustments; a plan edited in the UI must not count there."""
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    request.run_config["ops"]["ingest_events"]["config"]["lane"] = lane
    assert not platform.run(instance, request).success
    assert platform.ports().ledger.counters_by_lane() == {}


def test_the_materialize_button_plans_once_for_every_lane(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform(lanes=2)
    platform.produce(10)
    result = platform.run(instance)
    assert result.success
    assert materialized(result)["recent_events"]["events"] == 10


class FailingArchive(MemoryObjectStore):
    """Refuses every object below a prefix."""

    def __init__(self, prefix: str, fault: AnalyticsError) -> None:
        super().__init__()
        self.prefix, self.fault = prefix, fault

    def put(self, blobs: Sequence[StoredObject]) -> None:
        if any(blob.key.startswith(self.prefix) for blob in blobs):
            raise self.fault
        super().put(blobs)


class FailingPlatform(MemoryPlatform):
    """Its bucket fails until it is mended."""

    def __init__(self, fault: AnalyticsError) -> None:
        super().__init__()
        self.archive = FailingArchive("parquet/", fault)
        self._ports = replace(self._ports, object_store=self.archive)

    def ports(self) -> Ports:
        return self._ports


@pytest.mark.parametrize("fault", [Unavailable("MinIO at http://x, bucket b: no answer"), AccessDenied("MinIO at http://x, bucket b: 403")])
def test_a_fault_fails_the_run_with_its_message_and_commits_nothing(instance: dg.DagsterInstance, fault: AnalyticsError) -> None:
    platform = FailingPlatform(fault)
    platform.produce(10)
    result = platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    (failed,) = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    assert not result.success
    assert failed.step_failure_data.user_failure_data is not None
    assert failed.step_failure_data.user_failure_data.description == str(fault)
    assert platform.ports().event_log.committed(platform.ports().ledger.snapshot().checkpoints) == dict.fromkeys(
        platform.ports().ledger.snapshot().checkpoints
    )


@pytest.mark.parametrize("fault", [Unavailable("no answer"), AccessDenied("403")])
def test_dagster_hears_whether_trying_again_may_help(fault: AnalyticsError) -> None:
    with pytest.raises(dg.Failure) as raised, as_dagster_failures():
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
    platform.ports().object_store.put(
        [StoredObject(staging_key(closed.batch.id), b"left", "", {}), StoredObject(staging_key("not-ours"), b"kept", "", {})]
    )
    platform.run(instance)
    assert list(platform.ports().object_store.list_keys(staging_key(""))) == [staging_key("not-ours")]


def test_a_run_whose_offsets_are_refused_moves_everything_sweeps_and_fails_with_the_refusal(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise ConsumerGroupActive("another consumer is a member of the group")

    platform = MemoryPlatform(lanes=2)
    platform.produce(10)
    platform.run(instance)
    left = staging_key(platform.ports().ledger.last_batches(1)[0].batch.id)
    platform.ports().object_store.put([StoredObject(left, b"left", "", {})])
    platform.produce(10, start=10)
    monkeypatch.setattr(platform.log, "commit", refuse)
    result = platform.run(instance)
    assert not result.success
    assert platform.ports().ledger.counters()["events"] == 20, "the second lane was tried after the first one's refusal"
    assert list(platform.ports().object_store.list_keys(staging_key(""))) == []


def test_a_run_that_other_code_planned_is_refused_before_anything_is_touched(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    config = request.run_config["ops"]["ingest_events"]["config"]
    assert config["code"] == code_digest()
    config["code"] = "0123456789ab"
    result = platform.run(instance, request)
    assert not result.success
    (failed,) = [each for each in result.all_node_events if each.is_step_failure]
    assert f"has the digest 0123456789ab, that of the worker on {socket.gethostname()} is {code_digest()}" in str(failed.step_failure_data)
    assert platform.ports().ledger.snapshot().checkpoints == {}
    config["code"] = ""
    assert platform.run(instance, request).success


def test_a_run_whose_machine_would_judge_records_otherwise_is_refused_by_name_and_value(instance: dg.DagsterInstance) -> None:
    """Breaks: a worker that was not restarted with the others makes dead letters of events, or leaves out their objects."""
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    own = platform._settings
    platform._settings = own.model_copy(update={"write_event_json": False, "max_event_bytes": 1024, "write_threads": 2})
    said = failure_of(platform.run(instance, request))
    assert "WRITE_EVENT_JSON=False, expected True; MAX_EVENT_BYTES=1024, expected 4194304. Nothing was changed." in said
    assert platform.ports().ledger.snapshot() == LedgerSnapshot()
    platform._settings = own
    assert platform.run(instance, request).success


def test_a_run_whose_machine_has_another_bucket_takes_nothing_and_says_where_it_ran(instance: dg.DagsterInstance) -> None:
    """Breaks: it would be counted in the one ledger and lie in the other bucket, and every step would call that well."""
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    platform.produce(10, start=10)
    (request,) = platform.tick(instance).run_requests or []
    own, before = platform._ports, platform.ports().ledger.snapshot()
    platform._ports = replace(own, object_store=MemoryObjectStore())
    assert f"The worker on {socket.gethostname()} has other stores than the platform" in failure_of(platform.run(instance, request))
    assert platform.ports().ledger.snapshot() == before
    platform._ports = own
    assert platform.run(instance, request).success
    assert platform.ports().ledger.counters()["events"] == 20


def test_a_run_whose_machine_belongs_to_another_platform_takes_nothing(instance: dg.DagsterInstance) -> None:
    """Breaks: it would move everything into the other one's stores, and the group's offsets with it."""
    ours, others = MemoryPlatform(), MemoryPlatform()
    ours.produce(10)
    ours.run(instance)
    others.run(instance)
    ours.produce(10, start=10)
    (request,) = ours.tick(instance).run_requests or []
    others.log = ours.log
    others._ports = replace(others._ports, event_log=ours.log)
    assert "this run was planned by" in failure_of(others.run(instance, request))
    assert others.ports().ledger.snapshot().checkpoints == {}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (failed,) = [each for each in result.all_node_events if each.is_step_failure]
    return str(failed.step_failure_data)


def test_the_code_that_plans_names_itself_and_not_what_was_installed_over_it(tmp_path: Path) -> None:
    """Breaks: a code server plans for the first time when something arrives, which may be days after it was loaded."""
    package = tmp_path / "analytics_defs"
    shutil.copytree(Path(analytics_defs.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    told = subprocess.run(
        [sys.executable, "-c", PLANS_LATER, package / "errors.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded, planned_by, installed = told.stdout.split()
    assert planned_by == loaded != installed


PLANS_LATER = """
import pathlib, sys
from analytics_defs import errors, wiring
from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import Plan
from analytics_defs.defs.ingest.job import run_config
installed = pathlib.Path(sys.argv[1])
assert errors.__file__ == str(installed)
loaded = wiring.code_digest.__wrapped__()
installed.write_text("another release")
planned_by = run_config(Plan(0), Settings())["ops"]["ingest_events"]["config"]["code"]
print(loaded, planned_by, wiring.code_digest.__wrapped__())
"""
