"""A run of the micro-batch job, started by the sensor or by the Materialize button."""

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
REPORT_EVENTS = ("ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION")


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


def reported_events(result: dg.ExecuteInProcessResult) -> list[int]:
    """Return the number of events in each report of the run."""
    materializations = [event.materialization for event in result.get_asset_materialization_events()]
    return [
        int(str(materialization.metadata["events"].value))
        for materialization in materializations
        if materialization.asset_key == dg.AssetKey("recent_events")
    ]


def test_a_run_materializes_every_asset_with_numbers_that_plot(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.log.append("ProductDeleted", 0, b"not json")
    metadata = materialized(platform.run(instance, (platform.tick(instance).run_requests or [])[0]))
    assert metadata.keys() == ASSETS
    assert metadata["recent_events"]["events"] == 10
    assert {"wall seconds", "thread-seconds by step"} <= metadata["recent_events"].keys()
    assert metadata["dead_letters"] | {"files": []} == {"dead letters": 1, "ratio": round(1 / 11, 6), "files": [], "reason not_json": 1}
    assert metadata["event_counters"]["unaccounted"] == 0
    assert metadata["committed_offsets"]["offsets"] == 11


def test_the_gc_threshold_is_raised_during_a_run_and_restored_after_it(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, before, during = MemoryPlatform(), gc.get_threshold(), []
    begin_batch = platform.ports().ledger.begin_batch

    def record_threshold(batch: Batch) -> bool:
        during.append(gc.get_threshold())
        return begin_batch(batch)

    monkeypatch.setattr(platform.ports().ledger, "begin_batch", record_threshold)
    platform.produce(10)
    assert platform.run(instance, (platform.tick(instance).run_requests or [])[0]).success
    assert during == [(GC_GENERATION0_THRESHOLD, *before[1:])]
    assert gc.get_threshold() == before


def test_a_run_evaluates_the_checks_after_its_materializations(instance: dg.DagsterInstance) -> None:
    """The UI shows a check as not evaluated if it is older than the last materialization of its asset."""
    platform = MemoryPlatform()
    platform.produce(10)
    result = platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    reports = [event.event_type_value for event in result.all_events if event.event_type_value in REPORT_EVENTS]
    assert reports == ["ASSET_MATERIALIZATION"] * len(ASSETS) + ["ASSET_CHECK_EVALUATION"] * 4


def test_a_run_of_a_closed_plan_yields_nothing_and_succeeds(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    platform.run(instance, request)
    again = platform.run(instance, request)
    assert again.success
    assert materialized(again) == {}
    assert platform.ports().ledger.counters()["events"] == 10


def test_a_run_of_the_sensor_tails_its_lane_and_reports_everything(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    first = platform.tick(instance)
    (request,) = first.run_requests or []
    platform.clock.on_sleep = [lambda: platform.produce(5, start=10)]
    assert reported_events(platform.run(instance, request)) == [10, 5]
    assert platform.tick(instance, first.cursor).run_requests == []


def test_a_tailing_run_reports_its_progress(instance: dg.DagsterInstance) -> None:
    """It reports the batches of the plan at once and later ones every 20 s. It evaluates the checks after the first report and the last."""
    platform = MemoryPlatform(tail_duration=timedelta(minutes=2))
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    numbers = count(10)
    platform.clock.on_sleep = [lambda: platform.produce(1, start=next(numbers))] * 30
    result = platform.run(instance, request)
    assert reported_events(result) == [10, 20, 10]
    reports = [event.event_type_value for event in result.all_events if event.event_type_value in REPORT_EVENTS]
    assert reports == [
        *(["ASSET_MATERIALIZATION"] * len(ASSETS) + ["ASSET_CHECK_EVALUATION"] * 4),
        *["ASSET_MATERIALIZATION"] * len(ASSETS),
        *(["ASSET_MATERIALIZATION"] * len(ASSETS) + ["ASSET_CHECK_EVALUATION"] * 4),
    ]


def test_a_tailing_run_survives_an_unavailable_dagster_storage(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    starts = count(10, 5)
    platform.clock.on_sleep = [lambda: platform.produce(5, start=next(starts))] * 8
    queries: list[object] = []

    def unavailable(*_: object, **__: object) -> list[object]:
        queries.append(None)
        raise ConnectionError("server closed the connection unexpectedly")

    monkeypatch.setattr(type(instance), "get_run_records", unavailable)
    assert sum(reported_events(platform.run(instance, request))) == 50
    assert queries


@pytest.mark.parametrize(("status", "sleeps"), [("NOT_STARTED", 15), ("STARTING", 15), ("STARTED", 40), ("SUCCESS", 40)])
def test_a_tailing_run_frees_its_slot_for_a_queued_run(instance: dg.DagsterInstance, status: str, sleeps: int) -> None:
    """Breaks: with fewer slots than lanes, one lane is stalled for as long as the others are tailed."""
    platform = MemoryPlatform(tail_duration=timedelta(seconds=40), tail_interval=timedelta(seconds=1))
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    instance.add_run(dg.DagsterRun("micro_batch", make_new_run_id(), status=dg.DagsterRunStatus[status]))
    numbers = count(10)
    platform.clock.on_sleep = [lambda: platform.produce(1, start=next(numbers))] * 50
    assert platform.run(instance, request).success
    assert len(platform.clock.sleeps) == pytest.approx(sleeps, abs=1)


@pytest.mark.parametrize("start", ["closed plan", "button", "no tail duration"])
def test_no_other_run_tails_its_lane(instance: dg.DagsterInstance, start: str) -> None:
    platform = MemoryPlatform(tail_duration=timedelta(0) if start == "no tail duration" else timedelta(seconds=20))
    platform.produce(10)
    request = None if start == "button" else (platform.tick(instance).run_requests or [])[0]
    if start == "closed plan":
        platform.run(instance, request)
    platform.clock.on_sleep, platform.clock.sleeps = [lambda: platform.produce(5, start=10)], []
    assert platform.run(instance, request).success
    assert platform.clock.sleeps == []
    assert platform.ports().ledger.counters()["events"] == 10


@pytest.mark.parametrize("worker_lanes", [1, 2, 5])
def test_a_run_tails_its_lane_by_the_number_of_lanes_at_planning_time(instance: dg.DagsterInstance, worker_lanes: int) -> None:
    """Breaks: a new LANES needs a restart of the code server only, so a worker may still have another value."""
    platform = MemoryPlatform(lanes=2)
    platform.produce(10)
    for request in platform.tick(instance).run_requests or []:
        platform._settings = platform._settings.model_copy(update={"lanes": worker_lanes})
        before = next_offsets(platform)
        platform.clock.on_sleep = [lambda: platform.produce(10, start=10)]
        assert platform.run(instance, request).success
        (tailed,) = [partition for partition, end in next_offsets(platform).items() if end > before.get(partition, 0)]
        assert str(lane_of(tailed, 2)) == request.tags["analytics/lane"]
        assert next_offsets(platform)[tailed] == platform.ports().event_log.watermarks([tailed])[tailed].high_watermark


def next_offsets(platform: MemoryPlatform) -> dict[TopicPartition, int]:
    return {partition: checkpoint.next_offset for partition, checkpoint in platform.ports().ledger.snapshot().checkpoints.items()}


@pytest.mark.parametrize("lane", [-1, -2])
def test_a_negative_lane_is_refused_before_anything_is_counted_in_it(instance: dg.DagsterInstance, lane: int) -> None:
    """Breaks: negative lanes belong to redrives and adjustments. A plan edited in the UI must not count there."""
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
    """A store that refuses every object below a prefix."""

    def __init__(self, prefix: str, error: AnalyticsError) -> None:
        super().__init__()
        self.prefix, self.error = prefix, error

    def put(self, objects: Sequence[StoredObject]) -> None:
        if any(stored.key.startswith(self.prefix) for stored in objects):
            raise self.error
        super().put(objects)


class FailingPlatform(MemoryPlatform):
    """A platform whose bucket fails until `archive.prefix` is changed."""

    def __init__(self, error: AnalyticsError) -> None:
        super().__init__()
        self.archive = FailingArchive("parquet/", error)
        self._ports = replace(self._ports, object_store=self.archive)

    def ports(self) -> Ports:
        return self._ports


@pytest.mark.parametrize("error", [Unavailable("MinIO at http://x, bucket b: no answer"), AccessDenied("MinIO at http://x, bucket b: 403")])
def test_an_error_fails_the_run_with_its_message_and_commits_nothing(instance: dg.DagsterInstance, error: AnalyticsError) -> None:
    platform = FailingPlatform(error)
    platform.produce(10)
    result = platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    (failed,) = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    assert not result.success
    assert failed.step_failure_data.user_failure_data is not None
    assert failed.step_failure_data.user_failure_data.description == str(error)
    assert platform.ports().event_log.committed(platform.ports().ledger.snapshot().checkpoints) == dict.fromkeys(
        platform.ports().ledger.snapshot().checkpoints
    )


@pytest.mark.parametrize("error", [Unavailable("no answer"), AccessDenied("403")])
def test_a_failure_allows_retries_only_if_the_error_is_retryable(error: AnalyticsError) -> None:
    with pytest.raises(dg.Failure) as raised, as_dagster_failures():
        raise error
    assert raised.value.allow_retries is error.retryable
    assert raised.value.description == str(error)


def test_the_next_run_finishes_the_pending_batch_of_a_failed_one(instance: dg.DagsterInstance) -> None:
    platform = FailingPlatform(Unavailable("down"))
    platform.produce(10)
    platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    assert len(platform.ports().ledger.snapshot().pending) == 1
    platform.archive.prefix = "nothing/"
    result = platform.run(instance)
    assert materialized(result)["recent_events"]["events"] == 10
    assert platform.ports().ledger.snapshot().pending == {}


def test_only_the_sensor_retries() -> None:
    assert (micro_batch_job.tags or {})["dagster/max_retries"] == "0"
    assert all(op.retry_policy is None for op in defs.resolve_job_def("micro_batch").nodes_in_topological_order)


def test_a_run_deletes_staging_files_of_closed_batches(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    (closed,) = platform.ports().ledger.last_batches(1)
    platform.ports().object_store.put(
        [StoredObject(staging_key(closed.batch.id), b"left", "", {}), StoredObject(staging_key("unknown"), b"kept", "", {})]
    )
    platform.run(instance)
    assert list(platform.ports().object_store.list_keys(staging_key(""))) == [staging_key("unknown")]


def test_a_run_whose_commit_is_refused_closes_its_batches_and_fails(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise ConsumerGroupActive("another consumer is a member of the group")

    platform = MemoryPlatform(lanes=2)
    platform.produce(10)
    platform.run(instance)
    stale = staging_key(platform.ports().ledger.last_batches(1)[0].batch.id)
    platform.ports().object_store.put([StoredObject(stale, b"left", "", {})])
    platform.produce(10, start=10)
    monkeypatch.setattr(platform.log, "commit", refuse)
    result = platform.run(instance)
    assert not result.success
    assert platform.ports().ledger.counters()["events"] == 20, "the second lane is executed after the refusal of the first"
    assert list(platform.ports().object_store.list_keys(staging_key(""))) == []


def test_a_run_that_other_code_planned_is_refused_before_anything_is_changed(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    config = request.run_config["ops"]["ingest_events"]["config"]
    assert config["code"] == code_digest()
    config["code"] = "0123456789ab"
    result = platform.run(instance, request)
    assert not result.success
    (failed,) = [event for event in result.all_node_events if event.is_step_failure]
    assert f"has the digest 0123456789ab, that of the worker on {socket.gethostname()} is {code_digest()}" in str(failed.step_failure_data)
    assert platform.ports().ledger.snapshot().checkpoints == {}
    config["code"] = ""
    assert platform.run(instance, request).success


def test_a_worker_with_other_settings_is_refused_with_names_and_values(instance: dg.DagsterInstance) -> None:
    """Breaks: a worker that was not restarted rejects valid events, or does not write their objects."""
    platform = MemoryPlatform()
    platform.produce(10)
    (request,) = platform.tick(instance).run_requests or []
    settings = platform._settings
    platform._settings = settings.model_copy(update={"write_event_json": False, "max_event_bytes": 1024, "write_threads": 2})
    failure = failure_of(platform.run(instance, request))
    assert "WRITE_EVENT_JSON=False, expected True; MAX_EVENT_BYTES=1024, expected 4194304. Nothing was changed." in failure
    assert platform.ports().ledger.snapshot() == LedgerSnapshot()
    platform._settings = settings
    assert platform.run(instance, request).success


def test_a_worker_with_another_bucket_begins_nothing_and_is_named(instance: dg.DagsterInstance) -> None:
    """Breaks: the events would be counted in one ledger and stored in another bucket, and every step would succeed."""
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance, (platform.tick(instance).run_requests or [])[0])
    platform.produce(10, start=10)
    (request,) = platform.tick(instance).run_requests or []
    ports, before = platform._ports, platform.ports().ledger.snapshot()
    platform._ports = replace(ports, object_store=MemoryObjectStore())
    assert f"The worker on {socket.gethostname()} has other stores than the platform" in failure_of(platform.run(instance, request))
    assert platform.ports().ledger.snapshot() == before
    platform._ports = ports
    assert platform.run(instance, request).success
    assert platform.ports().ledger.counters()["events"] == 20


def test_a_worker_of_another_platform_begins_nothing(instance: dg.DagsterInstance) -> None:
    """Breaks: it would write everything to the stores of the other platform and commit the offsets of this one."""
    platform, other = MemoryPlatform(), MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    other.run(instance)
    platform.produce(10, start=10)
    (request,) = platform.tick(instance).run_requests or []
    other.log = platform.log
    other._ports = replace(other._ports, event_log=platform.log)
    assert "this run was planned by" in failure_of(other.run(instance, request))
    assert other.ports().ledger.snapshot().checkpoints == {}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (failed,) = [event for event in result.all_node_events if event.is_step_failure]
    return str(failed.step_failure_data)


def test_a_plan_names_the_loaded_code_and_not_code_that_was_installed_later(tmp_path: Path) -> None:
    """Breaks: a code server makes its first plan when records arrive, perhaps days after it was loaded."""
    package = tmp_path / "analytics_defs"
    shutil.copytree(Path(analytics_defs.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", PLANS_LATER, package / "errors.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded, planned_by, installed = done.stdout.split()
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
