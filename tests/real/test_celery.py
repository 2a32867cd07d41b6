"""Lanes on Celery workers with real Redis, Postgres, Kafka and stores. Workers and servers are killed, stopped and restarted."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import pytest
from dagster._core.launcher import LaunchRunContext

from analytics_defs.core.ingest.planning import lane_of
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.devstack.servers import NativeServer
from analytics_defs.devstack.tcp_ports import LOOPBACK
from bench import lanes
from tests.defs.memory_platform import MemoryPlatform
from tests.deploy.files import DEPLOY
from tests.deploy.postgres import Postgres, postgres
from tests.devstack.waiting import until
from tests.real import chaos, raw_clients
from tests.real.fleet import Fleet
from tests.real.store_snapshot import differences, read_snapshot
from tests.real.world import World

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

SPEED_EVENTS = 12_000
OUTAGE_SECONDS = 8.0
"""Longer than the interval of the sensor, so that a run is launched during each outage."""


@pytest.mark.fleet
def test_no_event_is_lost_while_workers_are_killed_and_lanes_change(tmp_path: Path) -> None:
    statistics = chaos.run_chaos(tmp_path, events=9_000, rate=90)
    assert statistics["rounds"] == 1


def redis_restarts(fleet: Fleet) -> None:
    fleet.redis.kill()
    until(lambda: "Connection to broker lost" in fleet.log("one").read_text(), seconds=60)
    wait_out_outage()
    fleet.redis.start()


def postgres_restarts(fleet: Fleet) -> None:
    fleet.postgres.stop()
    until(lambda: "OperationalError" in fleet.log("daemon").read_text(), seconds=60)
    wait_out_outage()
    fleet.postgres.start()


def daemon_is_killed_and_restarted(fleet: Fleet) -> None:
    fleet.kill("daemon")
    fleet.start_daemon()


def code_server_is_killed_and_restarted(fleet: Fleet) -> None:
    fleet.kill("code")
    fleet.start_code()


def redis_hangs(fleet: Fleet) -> None:
    """Accept connections and answer nothing. The daemon must not hang, and the runs of other lanes must not wait in the queue."""
    fleet.redis.freeze()
    until(lambda: any("redis" in fault.lower() or "Timeout" in fault for fault in launch_faults(fleet)), seconds=120)
    fleet.redis.thaw()


def redis_fails_over(fleet: Fleet) -> None:
    """Make Redis a replica of a server that does not exist. It answers and rejects writes, like the old master of a managed Redis."""
    send_command(fleet.redis, "REPLICAOF", LOOPBACK, "1")
    until(lambda: any("replica" in fault for fault in launch_faults(fleet)), seconds=120)
    wait_out_outage()
    send_command(fleet.redis, "REPLICAOF", "NO", "ONE")


def redis_is_full(fleet: Fleet) -> None:
    send_command(fleet.redis, "CONFIG", "SET", "maxmemory", "1")
    until(lambda: any("OOM" in fault or "maxmemory" in fault for fault in launch_faults(fleet)), seconds=120)
    wait_out_outage()
    send_command(fleet.redis, "CONFIG", "SET", "maxmemory", "0")


def redis_is_wiped(fleet: Fleet) -> None:
    """Delete all keys while every client stays connected, as an operator does to clear the queue."""
    send_command(fleet.redis, "FLUSHALL")


def a_second_daemon_runs(fleet: Fleet) -> None:
    """Start a second daemon, so that two sensors with one cursor request runs."""
    fleet.start("second", "dagster-daemon", "run", "-w", str(DEPLOY / "workspace.yaml"))
    until(lambda: "Checking for new runs for sensor: kafka_micro_batches" in fleet.log("second").read_text(), seconds=60)


def send_command(server: NativeServer, *words: str) -> None:
    with socket.create_connection((LOOPBACK, server.port), timeout=5) as connection:
        connection.sendall(f"{' '.join(words)}\r\n".encode())
        assert connection.recv(64) == b"+OK\r\n"


def launch_faults(fleet: Fleet) -> list[str]:
    with fleet.instance() as instance:
        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        entries = [entry for run in failed for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)]
        events = [entry.dagster_event for entry in entries if entry.dagster_event]
        return [str(event.event_specific_data.error) for event in events]  # type: ignore[union-attr]


def wait_out_outage() -> None:
    outage_end = time.monotonic() + OUTAGE_SECONDS
    until(lambda: time.monotonic() > outage_end, seconds=OUTAGE_SECONDS + 5)


@pytest.mark.fleet
@pytest.mark.parametrize(
    "fault",
    [
        redis_restarts,
        redis_hangs,
        redis_fails_over,
        redis_is_full,
        redis_is_wiped,
        a_second_daemon_runs,
        postgres_restarts,
        daemon_is_killed_and_restarted,
        code_server_is_killed_and_restarted,
    ],
    ids=lambda fault: fault.__name__,
)
def test_no_event_is_lost_when_redis_postgres_or_a_dagster_process_fails(tmp_path: Path, fault: Callable[[Fleet], None]) -> None:
    with chaos.scene(tmp_path, 4, max_offsets_per_run=2_000) as (fleet, platform):
        chaos.start_platform(fleet, "one", "two")
        chaos.produce(fleet, 4_000, 80)
        until(lambda: sum(next_offsets(platform).values()) > 200, seconds=60)
        os.kill(chaos.stop_a_run(fleet, platform, "one", "two").pid, signal.SIGCONT)  # the fault now occurs while a run is in progress
        fault(fleet)
        before = next_offsets(platform)
        chaos.produce(fleet, 1_600, 80, "shop 2")  # every lane has records, even if the first events are all ingested
        until(lambda: lanes_that_progressed(platform, before) == {0, 1, 2, 3}, seconds=chaos.PROGRESS_TIMEOUT_SECONDS)
        chaos.settle(fleet, platform, 150)
        chaos.assert_all_accounted_for(platform, 5_600)
        assert [name for name, program in fleet.programs.items() if not program.is_alive()] == ["shop", "shop 2"]


def next_offsets(platform: World) -> dict[TopicPartition, int]:
    return {partition: checkpoint.next_offset for partition, checkpoint in platform.ports.ledger.snapshot().checkpoints.items()}


def lanes_that_progressed(platform: World, before: Mapping[TopicPartition, int]) -> set[int]:
    """Return the lanes in which a batch was closed since `before`."""
    moved = [partition for partition, offset in next_offsets(platform).items() if offset > before.get(partition, 0)]
    return {lane_of(partition, platform.settings.lanes) for partition in moved}


def test_a_run_that_celery_delivers_again_is_ignored(tmp_path: Path) -> None:
    with chaos.scene(tmp_path, 1) as (fleet, platform):
        redeliver_early(fleet.folder / "home" / "dagster.yaml")
        chaos.start_platform(fleet, "one", "two")
        chaos.produce(fleet, 600, 600)
        stopped = chaos.stop_a_run(fleet, platform, worker_with_a_run(fleet))
        until(lambda: any("] ignored" in log for log in logs(fleet)), seconds=30)
        assert [run.run_id for run in fleet.runs(dg.DagsterRunStatus.STARTED)] == [stopped.run.run_id]
        os.kill(stopped.pid, signal.SIGCONT)
        chaos.settle(fleet, platform, 60)
        chaos.assert_all_accounted_for(platform, 600)
        before = read_snapshot(platform.settings)

        fleet.end("daemon")  # now only the redelivered message starts a run
        with fleet.instance() as instance:
            run = instance.get_run_by_id(stopped.run.run_id)
            assert run is not None
            assert run.status is dg.DagsterRunStatus.SUCCESS
            instance.run_launcher.launch_run(LaunchRunContext(run, None))
            expected = "Ignoring a run worker that started after the run had already finished"
            until(lambda: any(expected in (entry.message or "") for entry in instance.all_logs(run.run_id)), seconds=30)
        assert differences(read_snapshot(platform.settings), before) == []


def redeliver_early(dagster_yaml: Path) -> None:
    """Change the file so that Celery redelivers an unacknowledged message after two seconds."""
    text = dagster_yaml.read_text(encoding="utf-8")
    for old, new in (
        ("visibility_timeout: 60", "visibility_timeout: 2"),
        ("unacked_restore_interval: 10", "unacked_restore_interval: 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    dagster_yaml.write_text(text, encoding="utf-8")


def worker_with_a_run(fleet: Fleet) -> str:
    until(lambda: bool(fleet.executors()), seconds=60)
    return next(name for name in map(fleet.owner, fleet.executors()) if name)


def logs(fleet: Fleet) -> list[str]:
    return [fleet.log(name).read_text(errors="replace") for name in ("one", "two")]


@pytest.mark.fleet
def test_two_lanes_are_nearly_twice_as_fast_as_one_if_no_store_is_the_limit(tmp_path: Path) -> None:
    one_lane, two_lanes = (events_per_second(tmp_path / str(number), number) for number in (1, 2))
    assert two_lanes / one_lane >= 1.6, f"{one_lane:.0f} and {two_lanes:.0f} events per second"


def events_per_second(folder: Path, number: int) -> float:
    """Measure as `make bench` does, and delete everything that was created on the servers."""
    with patch.dict(os.environ):  # `slow_world` writes its settings to the environment
        settings = (world := lanes.slow_world(number)).settings
        try:
            return lanes.speed(folder, world, SPEED_EVENTS, lambda _: None)
        finally:
            raw_clients.remove_tables(settings)
            raw_clients.remove_bucket(settings.archive_bucket_name)
            raw_clients.remove_group(settings.kafka_group_id)
            raw_clients.remove_topics(settings.kafka_topics)


@pytest.mark.fleet
def test_a_tick_takes_less_than_a_second_with_300_000_old_runs_in_postgres(tmp_path: Path) -> None:
    with postgres("dagster", "dagster", "dagster") as database:
        (tmp_path / "dagster.yaml").write_text(
            f"storage:\n  postgres:\n    postgres_url: {database.address.render_as_string(hide_password=False)}\n", encoding="utf-8"
        )
        platform = MemoryPlatform(lanes=2)
        platform.produce(100)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            result = platform.run(instance, (platform.tick(instance).run_requests or [])[0])
            assert result.success
            copy_the_run(database, 300_000)
            assert database.column("SELECT count(*) FROM runs")[0] == 300_001
            platform.produce(100, start=100)
            durations = []
            for _ in range(5):
                started = time.perf_counter()
                assert platform.tick(instance).run_requests
                durations.append(time.perf_counter() - started)
        assert max(durations) < 1.0, durations


def copy_the_run(database: Postgres, count: int) -> None:
    """Insert this many copies of the only run, all finished, each with its own id, tags and times."""
    columns = [str(name) for name in database.column("SELECT column_name FROM information_schema.columns WHERE table_name = 'runs'")]
    unique = {"id": "n + 1000", "run_id": "'old-' || n", "create_timestamp": "create_timestamp - n * interval '5 seconds'"}
    values = ", ".join(unique.get(name, name) for name in columns)
    series = f"generate_series(1, {count}) AS n"
    database.execute(f"INSERT INTO runs ({', '.join(columns)}) SELECT {values} FROM (SELECT * FROM runs LIMIT 1) AS one, {series}")  # noqa: S608
    tag = "CASE key WHEN 'analytics/plan' THEN md5('plan' || n) WHEN 'dagster/run_key' THEN md5('plan' || n) || '#0' ELSE value END"
    tags = f"SELECT 'old-' || n, key, {tag} FROM (SELECT * FROM run_tags) AS one, {series}"  # noqa: S608
    database.execute(f"INSERT INTO run_tags (run_id, key, value) {tags}")
    database.execute("ANALYZE")


@pytest.mark.fleet
def test_a_worker_with_a_missing_library_fails_the_run_with_its_name(tmp_path: Path) -> None:
    with chaos.scene(tmp_path, 1) as (fleet, platform):
        fleet.module = "tests.real.broken_code"
        fleet.start_worker("one", WITHOUT_A_LIBRARY="1")
        fleet.start_code()
        fleet.start_daemon()
        chaos.produce(fleet, 300, 300)
        until(lambda: any("No module named 'a_library'" in reason for reason in failures(fleet)), seconds=90)
        fleet.kill("one")
        fleet.start_worker("two")
        chaos.settle(fleet, platform, 90)
        chaos.assert_all_accounted_for(platform, 300)


def failures(fleet: Fleet) -> list[str]:
    """Return message and error of each event of the failed runs, as the UI shows them."""
    with fleet.instance() as instance:
        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        events = [entry.dagster_event for run in failed for entry in instance.all_logs(run.run_id) if entry.dagster_event]
        return [f"{event.message} {getattr(event.event_specific_data, 'error', '')}" for event in events]


@pytest.mark.fleet
def test_a_terminated_run_is_canceled_and_its_worker_continues(tmp_path: Path) -> None:
    with chaos.scene(tmp_path, 1) as (fleet, platform):
        fleet.module = lanes.MODULE
        fleet.environment["WRITE_THREADS"] = "1"
        chaos.produce(fleet, 10_000, 20_000)
        until(lambda: not fleet.programs["shop"].is_alive(), seconds=60)
        chaos.start_platform(fleet, "one")
        until(lambda: bool(fleet.executors()), seconds=60)
        ((_, run),) = fleet.executors().items()
        with fleet.instance() as instance:
            instance.report_run_canceling(run)
            assert instance.run_launcher.terminate(run.run_id)
        until(lambda: [canceled.run_id for canceled in fleet.runs(dg.DagsterRunStatus.CANCELED)] == [run.run_id], seconds=30)
        until(lambda: platform.lag() == 0, seconds=90)
        assert fleet.programs["one"].is_alive()


@pytest.mark.fleet
def test_a_run_terminated_while_it_tails_its_lane_ends_in_seconds(tmp_path: Path) -> None:
    with chaos.scene(tmp_path, 1) as (fleet, platform):
        fleet.environment["TAIL_DURATION"] = "120s"
        chaos.start_platform(fleet, "one")
        chaos.produce(fleet, 60, 2)
        until(lambda: len(platform.ports.ledger.last_batches(9)) > 3 and bool(fleet.executors()), seconds=60)
        ((_, run),) = fleet.executors().items()
        assert sum(map(len, chaos.plan_of(run).ranges)) < sum(next_offsets(platform).values()), "the run tails its lane after its plan"
        with fleet.instance() as instance:
            instance.report_run_canceling(run)
            assert instance.run_launcher.terminate(run.run_id)
        until(lambda: [canceled.run_id for canceled in fleet.runs(dg.DagsterRunStatus.CANCELED)] == [run.run_id], seconds=10)
        chaos.settle(fleet, platform, 120)
        chaos.assert_all_accounted_for(platform, 60)
        assert fleet.programs["one"].is_alive()
