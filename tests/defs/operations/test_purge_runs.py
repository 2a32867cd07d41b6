"""The purge deletes old rows of Dagster's storage, and none that the UI shows as newest or the sensor depends on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from analytics_defs.definitions import defs
from analytics_defs.defs.ingest.job import LANE_TAG, MICRO_BATCH_JOB, PLAN_TAG
from analytics_defs.defs.operations import purge_runs
from tests.defs.memory_platform import MemoryPlatform
from tests.deploy.postgres import Postgres, postgres

DAYS = timedelta(days=8)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres("dagster", "secret", "dagster") as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Yield an instance on SQLite, as in development, or on PostgreSQL, as in production."""
    if request.param == "sqlite":
        with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
            yield instance
        return
    server: Postgres = request.getfixturevalue("server")
    server.create_database(tmp_path.name)
    url = server.address.set(database=tmp_path.name).render_as_string(hide_password=False)
    Path(tmp_path, "dagster.yaml").write_text(json.dumps({"storage": {"postgres": {"postgres_url": url}}}), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def platform() -> MemoryPlatform:
    return MemoryPlatform()


def after_all_events(platform: MemoryPlatform) -> datetime:
    """Return a time after everything that was recorded until now."""
    return platform.clock.now() + timedelta(hours=1)


def run_ids(instance: dg.DagsterInstance) -> list[str]:
    return [record.dagster_run.run_id for record in instance.get_run_records(ascending=True)]


def run_micro_batches(platform: MemoryPlatform, instance: dg.DagsterInstance, times: int) -> list[str]:
    """Execute requests of the sensor, each with new events. Return the run ids, oldest first."""
    ids = []
    for number in range(times):
        platform.produce(2, start=2 * number)
        (request,) = platform.tick(instance).run_requests or []
        result = platform.run(instance, request)
        assert result.success
        ids.append(result.run_id)
    return ids


def fail_requested_runs(platform: MemoryPlatform, instance: dg.DagsterInstance, times: int) -> None:
    for _ in range(times):
        platform.clock.advance(timedelta(minutes=6))
        (request,) = platform.tick(instance).run_requests or []
        tags = dict(request.tags) | {"dagster/run_key": request.run_key or ""}
        run = instance.create_run_for_job(defs.resolve_job_def(MICRO_BATCH_JOB), run_config=request.run_config, tags=tags)
        instance.report_run_failed(run)


def test_old_runs_are_deleted_with_their_events_and_the_newest_is_kept(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    ids = run_micro_batches(platform, instance, 4)
    result = purge_runs.purge_runs(instance, after_all_events(platform))
    assert result.runs[MICRO_BATCH_JOB] == 3
    assert run_ids(instance) == ids[-1:]
    assert instance.all_logs(ids[-1]) != []
    for asset in ("recent_events", "event_counters", "committed_offsets"):
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None
        assert event.run_id == ids[-1]
        assert len(instance.fetch_materializations(dg.AssetKey(asset), limit=9).records) == 1


@pytest.mark.parametrize("instance", ["sqlite"], indirect=True)
def test_the_database_file_of_a_deleted_run_is_deleted(platform: MemoryPlatform, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    first, last = run_micro_batches(platform, instance, 2)
    assert list(tmp_path.rglob(f"{first}.db"))
    purge_runs.purge_runs(instance, after_all_events(platform))
    assert list(tmp_path.rglob(f"{first}*")) == []
    assert list(tmp_path.rglob(f"{last}.db"))


def test_a_run_with_the_newest_materialization_of_an_asset_is_kept_however_old(
    platform: MemoryPlatform, instance: dg.DagsterInstance
) -> None:
    (holder,) = run_micro_batches(platform, instance, 1)
    platform.produce(2, start=2)
    fail_requested_runs(platform, instance, 3)
    result = purge_runs.purge_runs(instance, after_all_events(platform))
    assert (result.runs[MICRO_BATCH_JOB], result.kept) == (2, 2)
    assert run_ids(instance)[0] == holder


def test_recent_and_unfinished_runs_are_kept(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    run_micro_batches(platform, instance, 2)
    waiting = instance.create_run_for_job(defs.resolve_job_def(MICRO_BATCH_JOB), tags={LANE_TAG: "7"})
    assert purge_runs.purge_runs(instance, platform.clock.now() - timedelta(hours=1)).runs[MICRO_BATCH_JOB] == 0
    purge_runs.purge_runs(instance, after_all_events(platform))
    assert instance.has_run(waiting.run_id)
    assert len(run_ids(instance)) == 2


def test_a_purge_does_not_change_the_decision_of_the_sensor(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    platform.produce(4)
    fail_requested_runs(platform, instance, 4)
    platform.clock.advance(-timedelta(minutes=24))  # back to the time at which they ended
    waits = platform.tick(instance)
    purge_runs.purge_runs(instance, after_all_events(platform))
    assert len(run_ids(instance)) == 1
    assert str(platform.tick(instance).skip_reason) == str(waits.skip_reason)
    assert "attempt 5 waits" in str(waits.skip_reason)
    platform.clock.advance(timedelta(minutes=6))
    (request,) = platform.tick(instance).run_requests or []
    assert request.run_key == f"{request.tags[PLAN_TAG]}#4"


def test_the_newest_run_of_every_lane_is_kept(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform(lanes=2)
    platform.produce(4)
    last = {}
    for _ in range(3):
        platform.clock.advance(timedelta(minutes=6))
        for request in platform.tick(instance).run_requests or []:
            tags = dict(request.tags) | {"dagster/run_key": request.run_key or ""}
            run = instance.create_run_for_job(defs.resolve_job_def(MICRO_BATCH_JOB), run_config=request.run_config, tags=tags)
            instance.report_run_failed(run)
            last[request.tags[LANE_TAG]] = run.run_id
    purge_runs.purge_runs(instance, after_all_events(platform))
    assert set(run_ids(instance)) == set(last.values())
    assert len(last) == 2


def test_a_purge_is_limited_and_the_next_one_continues(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    ids = run_micro_batches(platform, instance, 6)
    assert purge_runs.purge_runs(instance, after_all_events(platform), limit=2).runs[MICRO_BATCH_JOB] == 2
    assert run_ids(instance) == ids[2:]
    assert purge_runs.purge_runs(instance, after_all_events(platform), limit=2).runs[MICRO_BATCH_JOB] == 2
    assert purge_runs.purge_runs(instance, after_all_events(platform), limit=2).runs[MICRO_BATCH_JOB] == 1
    assert run_ids(instance) == ids[-1:]


def test_a_run_whose_deletion_crashed_is_deleted_by_the_next_purge(
    platform: MemoryPlatform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = run_micro_batches(platform, instance, 3)

    def crash(run_id: str) -> None:
        raise KeyboardInterrupt(run_id)

    with monkeypatch.context() as patched:
        patched.setattr(instance.run_storage, "delete_run", crash)
        with pytest.raises(KeyboardInterrupt):
            purge_runs.purge_runs(instance, after_all_events(platform))
    assert run_ids(instance) == ids
    assert purge_runs.purge_runs(instance, after_all_events(platform)).runs[MICRO_BATCH_JOB] == 2
    assert run_ids(instance) == ids[-1:]


def test_old_events_of_no_run_are_deleted_but_for_the_newest_of_each_kind(instance: dg.DagsterInstance, platform: MemoryPlatform) -> None:
    key, check = dg.AssetKey("event_parts"), dg.AssetCheckKey(dg.AssetKey("recent_events"), "lag")
    for number in range(3):
        for hour in ("2024-01-15T10", "2024-01-15T11"):
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=hour, metadata={"n": number}))
        instance.report_runless_asset_event(dg.AssetObservation("kafka"))
        evaluation = dg.AssetCheckEvaluation(asset_key=check.asset_key, check_name="lag", passed=number == 2)
        instance.report_runless_asset_event(evaluation)
    assert purge_runs.purge_runs(instance, platform.clock.now() - timedelta(hours=1)).events["ASSET_MATERIALIZATION"] == 0
    result = purge_runs.purge_runs(instance, after_all_events(platform))
    assert result.events == {"ASSET_OBSERVATION": 2, "ASSET_MATERIALIZATION": 4, "ASSET_CHECK_EVALUATION": 2, "check executions": 2}
    assert instance.get_materialized_partitions(key) == {"2024-01-15T10", "2024-01-15T11"}
    (left,) = instance.fetch_materializations(dg.AssetRecordsFilter(key, asset_partitions=["2024-01-15T10"]), limit=9).records
    assert left.asset_materialization is not None
    assert left.asset_materialization.metadata["n"].value == 2
    newest = instance.event_log_storage.get_latest_asset_check_execution_by_key([check])[check]
    assert newest.event is not None


def test_runs_of_hours_are_never_deleted(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    run_micro_batches(platform, instance, 2)
    run = instance.create_run(
        job_name="__ASSET_JOB",
        run_id=None,
        run_config=None,
        status=dg.DagsterRunStatus.SUCCESS,
        tags=None,
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        execution_plan_snapshot=None,
        job_snapshot=None,
        parent_job_snapshot=None,
        asset_selection=None,
        asset_check_selection=None,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=None,
        job_code_origin=None,
        asset_graph=defs.resolve_asset_graph(),
    )
    purge_runs.purge_runs(instance, after_all_events(platform))
    assert instance.has_run(run.run_id)


def test_the_job_follows_its_setting_and_reports_what_it_deleted(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform(dagster_run_retention=timedelta(days=9))
    ids = run_micro_batches(platform, instance, 3)
    deleted = []
    for _ in range(2):
        platform.clock.advance(DAYS)
        done = defs.resolve_job_def(purge_runs.PURGE_JOB).execute_in_process(instance=instance, resources={"platform": platform})
        (output,) = [event for event in done.all_events if event.is_successful_output]
        by_job: Any = output.step_output_data.metadata["by job"].value
        deleted.append(by_job[MICRO_BATCH_JOB])
    assert deleted == [0, 2]
    assert ids[0] not in run_ids(instance)
