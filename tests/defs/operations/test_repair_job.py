"""The job `repair` on memory doubles."""

from __future__ import annotations

import dagster as dg
import pytest

from analytics_defs.core.storage.object_keys import event_key
from analytics_defs.definitions import defs
from analytics_defs.errors import Unavailable
from tests.defs.memory_platform import HOUR, MemoryPlatform


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_job_reports_changes_and_makes_them_unless_it_is_a_dry_run(dry_run: bool) -> None:
    platform, key = MemoryPlatform(), event_key(HOUR, "event-0")
    platform.produce(4)
    with dg.DagsterInstance.ephemeral() as instance:
        platform.run(instance)
        platform.ports().object_store.delete([key])
        config = {"from": HOUR, "to": "2024-01-15T11", "dry_run": dry_run}
        done = defs.resolve_job_def("repair").execute_in_process(
            run_config={"ops": {"repair_range": {"config": config}}}, resources={"platform": platform}, instance=instance
        )
    (output,) = [event for event in done.all_events if event.event_type is dg.DagsterEventType.STEP_OUTPUT]
    assert output.step_output_data.metadata["changes"].value == 1
    assert (platform.ports().object_store.get(key) is None) is dry_run


def test_a_job_that_a_store_interrupts_reports_what_it_changed() -> None:
    platform = MemoryPlatform()
    platform.produce(4)
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        platform.run(instance)
        platform.ports().object_store.delete([event_key(HOUR, "event-0")])

        def down(*_: object) -> None:
            raise Unavailable("the bucket does not answer")

        patch.setattr(type(platform.ports().object_store), "put_if", down)
        config = {"from": HOUR, "to": "2024-01-15T11", "dry_run": False}
        done = defs.resolve_job_def("repair").execute_in_process(
            run_config={"ops": {"repair_range": {"config": config}}},
            resources={"platform": platform},
            instance=instance,
            raise_on_error=False,
        )
    (failed,) = [event for event in done.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    failure = failed.step_failure_data.user_failure_data
    assert failure is not None
    assert failure.description == "the bucket does not answer"
    assert failure.metadata["changes"].value == 1
    assert str(failure.metadata["interrupted batch"].value).startswith("batch ")
