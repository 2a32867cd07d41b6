"""The endpoint under Dagster: one run is requested if no process answers, it serves, and it stops for each of its reasons."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from analytics_defs.adapters.runtime.liveness_client import running_instance, url_of
from analytics_defs.core.monitoring.endpoint_run import START_TIMEOUT, StartAttempt
from analytics_defs.definitions import defs
from analytics_defs.defs.observability import endpoint
from analytics_defs.devstack.tcp_ports import LOOPBACK, free_port
from analytics_defs.flows.health_probes import SchedulerProbe
from analytics_defs.web import server
from analytics_defs.web.app import WebContext
from tests.defs.memory_platform import MemoryPlatform
from tests.devstack.waiting import until
from tests.web.served import Client, served, site


class ServingPlatform(MemoryPlatform):
    """A platform whose endpoint serves its memory doubles."""

    def web_context(self, run_id: str, scheduling: SchedulerProbe) -> WebContext:
        return site(self.ports(), scheduling=scheduling, instance=run_id)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def platform() -> ServingPlatform:
    return ServingPlatform(health_port=free_port())


def tick(platform: ServingPlatform, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    repository = defs.get_repository_def()
    context = dg.build_sensor_context(instance=instance, resources={"platform": platform}, repository_def=repository, cursor=cursor)
    result = endpoint.observability_endpoint_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


@contextmanager
def run(platform: ServingPlatform, instance: dg.DagsterInstance) -> Iterator[list[dg.ExecuteInProcessResult]]:
    """Execute the job in a thread. The yielded list gets the result when it ends."""
    results: list[dg.ExecuteInProcessResult] = []

    def execute() -> None:
        results.append(
            defs.resolve_job_def(endpoint.ENDPOINT_JOB).execute_in_process(
                resources={"platform": platform}, instance=instance, raise_on_error=False
            )
        )

    thread = threading.Thread(target=execute)
    thread.start()
    yield results
    thread.join(30)
    assert not thread.is_alive()


def stop_sensor(instance: dg.DagsterInstance) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="analytics_defs.definitions"), location_name="analytics")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), endpoint.SENSOR)
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.STOPPED))


def test_a_run_is_requested_once_and_again_after_its_start_timeout(platform: ServingPlatform, instance: dg.DagsterInstance) -> None:
    first = tick(platform, instance)
    assert len(first.run_requests or []) == 1
    second = tick(platform, instance, first.cursor)
    assert (second.run_requests or []) == []
    assert "attempt 1 has until" in str(second.skip_reason)
    expired = StartAttempt(datetime.now(UTC) - START_TIMEOUT, 1)
    again = tick(platform, instance, str(expired))
    assert len(again.run_requests or []) == 1
    assert StartAttempt.parse(again.cursor).attempts == 2


def test_no_run_is_requested_while_any_process_answers(platform: ServingPlatform, instance: dg.DagsterInstance) -> None:
    with served(site(platform.ports())) as client:
        platform._settings = platform._settings.model_copy(update={"health_port": client.port})
        result = tick(platform, instance, str(StartAttempt(datetime.now(UTC) - timedelta(hours=1), 5)))
    assert (result.run_requests or []) == []
    assert result.skip_reason
    assert "test answers on" in str(result.skip_reason.skip_message)
    assert StartAttempt.parse(result.cursor) == StartAttempt()


def test_another_server_on_the_port_does_not_count_as_the_endpoint() -> None:
    with server.bind_socket(LOOPBACK, 0) as listener:
        assert running_instance(f"http://{LOOPBACK}:{listener.getsockname()[1]}") is None


def test_the_run_serves_and_stops_when_its_sensor_is_stopped(
    platform: ServingPlatform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "POLL_INTERVAL_SECONDS", 0.05)
    client = Client(platform.settings().health_port)
    with run(platform, instance) as results:
        until(lambda: running_instance(f"http://{LOOPBACK}:{client.port}") is not None)
        assert client.get("/health/ready").status == 200
        stop_sensor(instance)
    assert results[0].success
    assert running_instance(f"http://{LOOPBACK}:{client.port}") is None


def test_the_run_stops_without_a_daemon_heartbeat(
    platform: ServingPlatform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "POLL_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr("analytics_defs.core.monitoring.endpoint_run.HEARTBEAT_TIMEOUT", timedelta(seconds=1))
    with run(platform, instance) as results:
        pass
    assert results[0].success


def test_a_port_in_use_fails_the_run_and_is_named(instance: dg.DagsterInstance) -> None:
    with server.bind_socket(LOOPBACK, 0) as listener:
        port = listener.getsockname()[1]
        with run(ServingPlatform(health_port=port), instance) as results:
            pass
    failure = results[0].failure_data_for_node(endpoint.serve_observability.name)
    assert failure is not None
    assert failure.error is not None
    assert f"cannot listen on port {port} of {LOOPBACK}" in str(failure.error.cause or failure.error)


def test_the_run_uses_a_slot_of_its_own_and_has_no_time_limit() -> None:
    tags = defs.resolve_job_def(endpoint.ENDPOINT_JOB).tags
    assert (tags["dagster/max_runtime"], tags["dagster/max_retries"]) == ("0", "0")
    root = Path(__file__).parents[3]
    production, development = (yaml.safe_load((root / name).read_text()) for name in ("deploy/dagster.yaml", "dagster.yaml"))
    runs = "concurrency", "runs", "max_concurrent_runs"
    assert development[runs[0]][runs[1]][runs[2]] == production[runs[0]][runs[1]][runs[2]] + 1


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),  # noqa: S104 - the address under test
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("localhost", "http://localhost:1"),
    ],
)
def test_the_url_of_a_server_follows_its_listening_address(host: str, url: str) -> None:
    assert url_of(host, 1) == url


@pytest.mark.parametrize("cursor", ["reset me", "5", "[]", '{"requested_at": "2024-01-15"}', '{"attempts": "many"}'])
def test_a_cursor_of_another_origin_counts_as_lost(platform: ServingPlatform, instance: dg.DagsterInstance, cursor: str) -> None:
    assert len(tick(platform, instance, cursor).run_requests or []) == len(tick(platform, instance).run_requests or []) == 1
