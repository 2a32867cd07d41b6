"""Dead runs of every kind are reported as failed. Living runs, unknown runs and runs during an outage of the ledger are not."""

# No postponed annotations here: Dagster reads the type of `context`.

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from analytics_defs.config import Settings
from analytics_defs.core.ledger import Lease
from analytics_defs.definitions import defs
from analytics_defs.defs.ingest.job import LANE_TAG
from analytics_defs.defs.operations.dead_run_sensor import dead_run_sensor
from analytics_defs.defs.resources.leased_platform import leased_platform
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.errors import AccessDenied, SettingsError, Unavailable
from tests.defs.memory_platform import MemoryPlatform
from tests.devstack.waiting import until
from tests.proof.interceptors import failing, intercept

TICK = timedelta(seconds=10)
HERE, ELSEWHERE = (
    InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="analytics_defs.definitions"), location_name=name)
    for name in ("analytics", "another")
)
CONFIG = {"repair": {"ops": {"repair_range": {"config": {"from": "2024-01-15T10", "to": "2024-01-15T11"}}}}}
"""Run config of the jobs that need one."""
JOBS = ("__ASSET_JOB", "stores_consistency_check", "repair", "observability_endpoint", "purge_old_runs", "apply_retention")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def platform() -> MemoryPlatform:
    return MemoryPlatform()


def started(
    instance: dg.DagsterInstance,
    job: str = "__ASSET_JOB",
    location: InProcessCodeLocationOrigin | None = HERE,
    tags: dict[str, str] | None = None,
) -> dg.DagsterRun:
    """Create a started run of a code location, or of a command if `location` is None. No process executes it."""
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job) if location else None
    run = instance.create_run_for_job(
        defs.resolve_job_def(job), run_config=CONFIG.get(job), tags=tags, remote_job_origin=origin, job_code_origin=None
    )
    start = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=run.job_name)
    instance.run_storage.handle_run_event(run.run_id, start)
    return run


def tick(platform: MemoryPlatform, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    context = dg.SensorEvaluationContext(
        instance_ref=None,
        last_tick_completion_time=None,
        last_run_key=None,
        cursor=cursor,
        repository_name="__repository__",
        repository_def=defs.get_repository_def(),
        instance=instance,
        resources={"platform": dg.ResourceDefinition.hardcoded_resource(platform)},
        code_location_origin=HERE,
    )
    result = dead_run_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def watch(platform: MemoryPlatform, instance: dg.DagsterInstance, ticks: int, *, alive: str = "", cursor: str | None = None) -> str | None:
    """Evaluate the sensor every 10 s, and renew the lease of the run `alive` before each tick. Return the cursor."""
    for _ in range(ticks):
        if alive:
            platform.ports().ledger.renew_lease(Lease(alive, None, platform.clock.now()))
        cursor = tick(platform, instance, cursor).cursor or cursor
        platform.clock.advance(TICK)
    return cursor


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    return stored.status


STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize("held_lease", [True, False], ids=["killed later", "killed before its first heartbeat"])
@pytest.mark.parametrize("job", JOBS)
def test_a_killed_run_is_failed_after_a_minute(platform: MemoryPlatform, instance: dg.DagsterInstance, job: str, held_lease: bool) -> None:
    run = started(instance, job)
    if held_lease:
        platform.ports().ledger.renew_lease(Lease(run.run_id, None, platform.clock.now()))
    cursor = watch(platform, instance, 7)
    assert status(instance, run) is STARTED
    watch(platform, instance, 1, cursor=cursor)
    assert status(instance, run) is FAILURE


def test_a_run_with_a_heartbeat_lives_as_long_as_it_takes(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    run = started(instance)
    watch(platform, instance, 100, alive=run.run_id)
    assert status(instance, run) is STARTED


def test_only_started_runs_of_this_platform_outside_lanes_are_watched(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    """A command such as `dagster asset materialize` records no code location, so its runs are known by their lease."""
    queued = instance.create_run_for_job(defs.resolve_job_def("purge_old_runs"))
    foreign, of_command, of_lane = (
        started(instance, location=ELSEWHERE),
        started(instance, location=None),
        started(instance, tags={LANE_TAG: "0"}),
    )
    leased_command = started(instance, location=None)
    platform.ports().ledger.renew_lease(Lease(leased_command.run_id, None, platform.clock.now()))
    watch(platform, instance, 20)
    assert {status(instance, run) for run in (foreign, of_command, of_lane)} == {STARTED}
    assert status(instance, queued) is dg.DagsterRunStatus.NOT_STARTED
    assert status(instance, leased_command) is FAILURE


def test_no_run_is_failed_because_the_ledger_does_not_answer(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    run = started(instance)
    cursor = watch(platform, instance, 2, alive=run.run_id)
    answering = platform._ports
    platform._ports = intercept(answering, failing("snapshot", True, lambda _: Unavailable("no answer")))
    cursor = watch(platform, instance, 60, cursor=cursor)
    assert "no answer" in str(tick(platform, instance, cursor).skip_reason)
    platform._ports = answering
    cursor = watch(platform, instance, 3, cursor=cursor)  # the run has not renewed its lease yet
    watch(platform, instance, 10, alive=run.run_id, cursor=cursor)
    assert status(instance, run) is STARTED


def test_a_refused_role_fails_the_tick_and_no_run(platform: MemoryPlatform, instance: dg.DagsterInstance) -> None:
    run = started(instance)
    platform._ports = intercept(platform._ports, failing("snapshot", True, lambda _: AccessDenied("the role may not read the ledger")))
    with pytest.raises(dg.Failure, match="the role may not read the ledger"):
        tick(platform, instance, None)
    assert status(instance, run) is STARTED


@pytest.mark.parametrize("cursor", ["reset me", "5", "[]", '{"run": 1}'])
def test_a_cursor_of_another_origin_is_replaced(platform: MemoryPlatform, instance: dg.DagsterInstance, cursor: str) -> None:
    run = started(instance)
    watch(platform, instance, 8, cursor=cursor)
    assert status(instance, run) is FAILURE


def run_reading_leases(platform: Platform, monkeypatch: pytest.MonkeyPatch, **tags: str) -> set[str | None]:
    """Execute a run with the resource of the definitions. Return the runs with a lease, as the run saw them in its step."""
    seen: set[str | None] = set()

    @dg.op(required_resource_keys={"platform"})
    def read_leases(context: dg.OpExecutionContext) -> None:
        until(lambda: bool(leases(platform)) or LANE_TAG in tags)
        seen.update("own" if run_id == context.run.run_id else "other" for run_id in leases(platform))

    @dg.job(resource_defs={"platform": leased_platform}, tags=tags)
    def job() -> None:
        read_leases()

    monkeypatch.setattr("analytics_defs.defs.resources.leased_platform.Platform", lambda: platform)
    assert job.execute_in_process().success
    return seen


def leases(platform: Platform) -> set[str]:
    return set(platform.ports().ledger.snapshot().leases)


class HeartbeatPlatform(MemoryPlatform):
    """A platform with the heartbeat thread of production over memory doubles."""

    lease_heartbeat = Platform.lease_heartbeat


def test_a_run_holds_its_lease_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = HeartbeatPlatform()
    assert run_reading_leases(platform, monkeypatch) == {"own"}
    assert leases(platform) == set()


def test_the_run_of_a_lane_is_left_to_its_own_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_reading_leases(HeartbeatPlatform(), monkeypatch, **{LANE_TAG: "0"}) == set()


def test_wrong_settings_are_reported_by_the_step_and_not_by_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    class WronglySet(MemoryPlatform):
        def settings(self) -> Settings:
            raise SettingsError("LANES is -1: expected at least 1")

        ports = Platform.ports
        lease_heartbeat = Platform.lease_heartbeat

    monkeypatch.setattr("analytics_defs.defs.resources.leased_platform.Platform", WronglySet)
    done = defs.resolve_job_def("purge_old_runs").execute_in_process(raise_on_error=False)
    (failure,) = done.get_step_failure_events()
    assert "LANES is -1" in str(failure.step_failure_data.user_failure_data)


def test_every_step_of_the_definitions_uses_the_resource_that_holds_the_lease() -> None:
    repository = defs.get_repository_def()
    for job in repository.get_all_jobs():
        assert job.resource_defs["platform"] is repository.get_top_level_resources()["platform"] is leased_platform
        for node in job.all_node_defs:
            assert isinstance(node, dg.OpDefinition)
            assert "platform" in node.required_resource_keys, f"{node.name} of {job.name} would run without a lease"
