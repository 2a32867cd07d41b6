"""The job `apply_retention` on memory doubles, and the status of its schedule."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.storage.tags import AUTOMATION_CONDITION_TAG

from analytics_defs.core.hours.retention import MIN_RETENTION
from analytics_defs.core.storage.object_keys import event_key
from analytics_defs.definitions import defs
from analytics_defs.defs.hours.hourly_assets import AUTOMATION_TAG, event_archive, hourly_event_stats
from analytics_defs.defs.resources.statistics_io_manager import STATISTICS_IO_MANAGER, StatisticsIOManager
from analytics_defs.errors import Unavailable
from tests.defs.memory_platform import HOUR, MemoryPlatform

OLD = timedelta(days=32)


def execute(platform: MemoryPlatform, instance: dg.DagsterInstance, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    job = defs.resolve_job_def("apply_retention")
    return job.execute_in_process(resources={"platform": platform}, instance=instance, raise_on_error=raise_on_error)


def output_metadata(done: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = [event for event in done.all_events if event.event_type is dg.DagsterEventType.STEP_OUTPUT]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_the_job_reports_what_it_deleted_by_hour() -> None:
    platform = MemoryPlatform(event_json_retention=MIN_RETENTION)
    platform.produce(4)
    with dg.DagsterInstance.ephemeral() as instance:
        platform.run(instance)
        platform.clock.advance(OLD)
        metadata = output_metadata(execute(platform, instance))
    assert (metadata["objects deleted"], metadata["skipped hours"], metadata["foreign objects"]) == (4, 0, 0)
    assert int(str(metadata["bytes deleted"])) > 400
    table = metadata["by hour"]
    assert isinstance(table, dg.TableMetadataValue)
    (row,) = table.records
    assert (row.data["tree"], row.data["hour"], row.data["objects"]) == ("events", HOUR, 4)
    assert platform.ports().object_store.get(event_key(HOUR, "event-0")) is None


def test_a_job_that_a_store_interrupts_reports_what_it_deleted() -> None:
    platform = MemoryPlatform(event_json_retention=MIN_RETENTION)
    platform.produce(4)
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        platform.run(instance)
        platform.clock.advance(OLD)

        def down(*_: object) -> None:
            raise Unavailable("the bucket does not answer")

        patch.setattr(type(platform.ports().object_store), "delete", down)
        done = execute(platform, instance, raise_on_error=False)
    (failed,) = [event for event in done.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    failure = failed.step_failure_data.user_failure_data
    assert failure is not None
    assert (failure.description, failure.metadata["objects deleted"].value) == ("the bucket does not answer", 0)


@pytest.mark.parametrize(("settings", "status"), [({}, "STOPPED"), ({"PARQUET_RETENTION": "90d"}, "RUNNING"), ({"LANES": "no"}, "STOPPED")])
def test_the_schedule_runs_only_if_a_retention_is_set(settings: dict[str, str], status: str) -> None:
    code = "from analytics_defs.defs.operations.retention_job import retention_schedule; print(retention_schedule.default_status.value)"
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_RETENTION")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120, env=inherited | settings)
    assert done.stdout.strip() == status


def test_a_late_event_of_an_expired_hour_leaves_its_statistics_unchanged() -> None:
    """A run by hand is refused. A run of the automation succeeds, because it would be requested again every ten minutes."""
    platform = MemoryPlatform(parquet_retention=MIN_RETENTION)
    platform.produce(4)
    key = "aggregates/hourly/year=2024/month=01/day=15/hour=10/hourly.parquet"
    with dg.DagsterInstance.ephemeral() as instance:
        platform.run(instance)
        platform.clock.advance(OLD)
        execute(platform, instance)
        before = platform.ports().object_store.get(key)
        platform.produce(1, start=4)
        platform.run(instance)
        assert before is not None

        def materialize(asset: dg.AssetsDefinition, **tags: str) -> dg.ExecuteInProcessResult:
            job = dg.Definitions(
                assets=[event_archive, hourly_event_stats],
                jobs=[dg.define_asset_job("one", selection=dg.AssetSelection.assets(asset), executor_def=dg.in_process_executor)],
                resources={"platform": platform, STATISTICS_IO_MANAGER: StatisticsIOManager(platform)},
            ).resolve_job_def("one")
            return job.execute_in_process(partition_key=HOUR, instance=instance, tags=tags, raise_on_error=False)

        archived = materialize(event_archive)
        assert archived.success
        refused = materialize(hourly_event_stats)
        by_automation = materialize(hourly_event_stats, **{AUTOMATION_TAG: "true"})
    (failed,) = [event for event in refused.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    assert f"hour {HOUR} has expired data" in str(failed.step_failure_data.user_failure_data)
    assert AUTOMATION_TAG == AUTOMATION_CONDITION_TAG
    (materialization,) = by_automation.asset_materializations_for_node("hourly_event_stats")
    assert f"hour {HOUR} has expired data" in str(materialization.metadata["expired"].value)
    assert platform.ports().object_store.get(key) == before
