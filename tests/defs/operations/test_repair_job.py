"""The job `replay` on memory doubles."""

from __future__ import annotations

import dagster as dg
import pytest

from analytics_defs.core.storage.object_keys import event_key
from analytics_defs.definitions import defs
from analytics_defs.errors import Unavailable
from tests.defs.memory_platform import HOUR, MemoryPlatform


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_job_shows_what_changes_and_changes_it_unless_it_only_looks(dry_run: bool) -> None:
    platform, key = MemoryPlatform(), event_key(HOUR, "event-0")
    platform.produce(4)
    with dg.DagsterInstance.ephemeral() as instance:
        platform.run(instance)
        platform.ports().object_store.delete([key])
        config = {"from": HOUR, "to": "2024-01-15T11", "dry_run": dry_run}
        done = defs.resolve_job_def("repair").execute_in_process(
            run_config={"ops": {"replay_range": {"config": config}}}, resources={"platform": platform}, instance=instance
        )
    (output,) = [each for each in done.all_events if each.event_type is dg.DagsterEventType.STEP_OUTPUT]
    assert output.step_output_data.metadata["changes"].value == 1
    assert (platform.ports().object_store.get(key) is None) is dry_run


def test_a_job_that_a_store_breaks_off_shows_what_was_done() -> None:
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
            run_config={"ops": {"replay_range": {"config": config}}},
            resources={"platform": platform},
            instance=instance,
            raise_on_error=False,
        )
    (failed,) = [each for each in done.all_events if each.event_type is dg.DagsterEventType.STEP_FAILURE]
    said = failed.step_failure_data.user_failure_data
    assert said is not None
    assert said.description == "the bucket does not answer"
    assert said.metadata["changes"].value == 1
    assert str(said.metadata["unfinished"].value).startswith("batch ")
