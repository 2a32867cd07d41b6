"""Lanes on Celery workers: real Redis, Postgres, Kafka and stores; workers and servers that die, sleep and come back."""

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
from tests.real import chaos, plain
from tests.real.fleet import Fleet
from tests.real.picture import differences, picture
from tests.real.world import World

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

SWIFT_EVENTS = 12_000
AWAY_SECONDS = 8.0
"""Longer than the sensor's tick: each kind of outage meets a launch."""


@pytest.mark.fleet
def test_lanes_follow_their_work_while_workers_die_and_sleep_and_their_number_changes(tmp_path: Path) -> None:
    seen = chaos.play(tmp_path, events=9_000, rate=90)
    assert seen["rounds"] == 1


def redis_goes_and_comes(ships: Fleet) -> None:
    ships.redis.kill()
    until(lambda: "Connection to broker lost" in ships.log("one").read_text(), seconds=60)
    stay_away()
    ships.redis.start()


def storage_goes_and_comes(ships: Fleet) -> None:
    ships.postgres.stop()
    until(lambda: "OperationalError" in ships.log("daemon").read_text(), seconds=60)
    stay_away()
    ships.postgres.start()


def daemon_is_killed_and_started(ships: Fleet) -> None:
    ships.kill("daemon")
    ships.start_daemon()


def code_server_is_killed_and_started(ships: Fleet) -> None:
    ships.kill("code")
    ships.start_code()


def redis_answers_nothing_for_a_while(ships: Fleet) -> None:
    """Connections are accepted, and nothing comes back: whoever starts runs must not hang, nor keep the queue from the other lanes."""
    ships.redis.freeze()
    until(lambda: any("redis" in fault.lower() or "Timeout" in fault for fault in launch_faults(ships)), seconds=120)
    ships.redis.thaw()


def redis_fails_over(ships: Fleet) -> None:
    """It becomes a replica of a server that is not there, as the old master of a managed Redis does: it answers, and takes no write."""
    ask(ships.redis, "REPLICAOF", LOOPBACK, "1")
    until(lambda: any("replica" in fault for fault in launch_faults(ships)), seconds=120)
    stay_away()
    ask(ships.redis, "REPLICAOF", "NO", "ONE")


def redis_is_full_for_a_while(ships: Fleet) -> None:
    ask(ships.redis, "CONFIG", "SET", "maxmemory", "1")
    until(lambda: any("OOM" in fault or "maxmemory" in fault for fault in launch_faults(ships)), seconds=120)
    stay_away()
    ask(ships.redis, "CONFIG", "SET", "maxmemory", "0")


def redis_is_wiped(ships: Fleet) -> None:
    """By somebody who wants to clear its queue, while every client stays connected."""
    ask(ships.redis, "FLUSHALL")


def a_second_daemon_runs_beside_it(ships: Fleet) -> None:
    """Two sensors with one cursor, each asking for runs."""
    ships.start("second", "dagster-daemon", "run", "-w", str(DEPLOY / "workspace.yaml"))
    until(lambda: "Checking for new runs for sensor: kafka_micro_batches" in ships.log("second").read_text(), seconds=60)


def ask(server: NativeServer, *words: str) -> None:
    with socket.create_connection((LOOPBACK, server.port), timeout=5) as connection:
        connection.sendall(f"{' '.join(words)}\r\n".encode())
        assert connection.recv(64) == b"+OK\r\n"


def launch_faults(ships: Fleet) -> list[str]:
    with ships.instance() as instance:
        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        events = [each for run in failed for each in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)]
        return [str(each.dagster_event.event_specific_data.error) for each in events if each.dagster_event]  # type: ignore[union-attr]


def stay_away() -> None:
    back_at = time.monotonic() + AWAY_SECONDS
    until(lambda: time.monotonic() > back_at, seconds=AWAY_SECONDS + 5)


@pytest.mark.fleet
@pytest.mark.parametrize(
    "fault",
    [
        redis_goes_and_comes,
        redis_answers_nothing_for_a_while,
        redis_fails_over,
        redis_is_full_for_a_while,
        redis_is_wiped,
        a_second_daemon_runs_beside_it,
        storage_goes_and_comes,
        daemon_is_killed_and_started,
        code_server_is_killed_and_started,
    ],
    ids=lambda fault: fault.__name__,
)
def test_what_the_lanes_stand_on_goes_and_comes_and_nothing_is_lost(tmp_path: Path, fault: Callable[[Fleet], None]) -> None:
    with chaos.scene(tmp_path, 4, max_offsets_per_run=2_000) as (ships, found):
        chaos.begin(ships, "one", "two")
        chaos.produce(ships, 4_000, 80)
        until(lambda: sum(heads(found).values()) > 200, seconds=60)
        os.kill(chaos.catch(ships, found, "one", "two").pid, signal.SIGCONT)  # so that the fault meets a run in the middle of its work
        fault(ships)
        before = heads(found)
        chaos.produce(ships, 1_600, 80, "shop, again")  # whatever the lanes have moved by now, there is something to move for each
        until(lambda: moved(found, before) == {0, 1, 2, 3}, seconds=chaos.MOVES_WITHIN)
        chaos.settle(ships, found, 150)
        chaos.assert_whole(found, 5_600)
        assert [name for name, program in ships.programs.items() if not program.is_alive()] == ["shop", "shop, again"]


def heads(found: World) -> dict[TopicPartition, int]:
    return {each: head.next_offset for each, head in found.ports.ledger.snapshot().checkpoints.items()}


def moved(found: World, before: Mapping[TopicPartition, int]) -> set[int]:
    """Lanes in which a batch was closed since."""
    return {lane_of(each, found.settings.lanes) for each, offset in heads(found).items() if offset > before.get(each, 0)}


def test_a_run_that_celery_delivers_again_changes_nothing_twice(tmp_path: Path) -> None:
    with chaos.scene(tmp_path, 1) as (ships, found):
        impatient(ships.folder / "home" / "dagster.yaml")
        chaos.begin(ships, "one", "two")
        chaos.produce(ships, 600, 600)
        asleep = chaos.catch(ships, found, worker_at_work(ships))
        until(lambda: any("left alone" in log or "ignored" in log for log in logs(ships)), seconds=30)
        assert [run.run_id for run in ships.runs(dg.DagsterRunStatus.STARTED)] == [asleep.run_all.run_id]
        os.kill(asleep.pid, signal.SIGCONT)
        chaos.settle(ships, found, 60)
        chaos.assert_whole(found, 600)
        before = picture(found.settings)

        ships.end("daemon")  # nobody but the message asks for anything now
        with ships.instance() as instance:
            run = instance.get_run_by_id(asleep.run_all.run_id)
            assert run is not None
            assert run.status is dg.DagsterRunStatus.SUCCESS
            instance.run_launcher.launch_run(LaunchRunContext(run, None))
            told = "Ignoring a run worker that started after the run had already finished"
            until(lambda: any(told in (each.message or "") for each in instance.all_logs(run.run_id)), seconds=30)
        assert differences(picture(found.settings), before) == []


def impatient(dagster_yaml: Path) -> None:
    """Messages are given out again after two seconds."""
    text = dagster_yaml.read_text(encoding="utf-8")
    for slow, swift in (
        ("visibility_timeout: 60", "visibility_timeout: 2"),
        ("unacked_restore_interval: 10", "unacked_restore_interval: 1"),
    ):
        assert slow in text
        text = text.replace(slow, swift)
    dagster_yaml.write_text(text, encoding="utf-8")


def worker_at_work(ships: Fleet) -> str:
    until(lambda: bool(ships.executors()), seconds=60)
    return next(name for name in map(ships.owner, ships.executors()) if name)


def logs(ships: Fleet) -> list[str]:
    return [ships.log(name).read_text(errors="replace") for name in ("one", "two")]


@pytest.mark.fleet
def test_two_lanes_at_once_are_nearly_twice_as_fast_where_no_store_is_the_limit(tmp_path: Path) -> None:
    one, two = (events_a_second(tmp_path / str(number), number) for number in (1, 2))
    assert two / one >= 1.6, f"{one:.0f} and {two:.0f} events a second"


def events_a_second(folder: Path, number: int) -> float:
    """As `make bench` measures it. Nothing of its world stays on the servers."""
    with patch.dict(os.environ):  # a bench's world writes its settings there
        settings = (world := lanes.slow_world(number)).settings
        try:
            return lanes.speed(folder, world, SWIFT_EVENTS, lambda _: None)
        finally:
            plain.remove_tables(settings)
            plain.remove_bucket(settings.archive_bucket_name)
            plain.remove_group(settings.kafka_group_id)
            plain.remove_topics(settings.kafka_topics)


@pytest.mark.fleet
def test_a_tick_stays_under_a_second_with_300_000_old_runs_in_the_storage(tmp_path: Path) -> None:
    with postgres("dagster", "dagster", "dagster") as database:
        (tmp_path / "dagster.yaml").write_text(
            f"storage:\n  postgres:\n    postgres_url: {database.address.render_as_string(hide_password=False)}\n", encoding="utf-8"
        )
        platform = MemoryPlatform(lanes=2)
        platform.produce(100)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            result = platform.run(instance, (platform.tick(instance).run_requests or [])[0])
            assert result.success
            multiply(database, 300_000)
            assert database.column("SELECT count(*) FROM runs")[0] == 300_001
            platform.produce(100, start=100)
            took = []
            for _ in range(5):
                began = time.perf_counter()
                assert platform.tick(instance).run_requests
                took.append(time.perf_counter() - began)
        assert max(took) < 1.0, took


def multiply(database: Postgres, count: int) -> None:
    """So many copies of the one run there is, each with an id, tags and times of its own, all finished."""
    columns = [str(name) for name in database.column("SELECT column_name FROM information_schema.columns WHERE table_name = 'runs'")]
    own = {"id": "n + 1000", "run_id": "'old-' || n", "create_timestamp": "create_timestamp - n * interval '5 seconds'"}
    values = ", ".join(own.get(name, name) for name in columns)
    series = f"generate_series(1, {count}) AS n"
    database.execute(f"INSERT INTO runs ({', '.join(columns)}) SELECT {values} FROM (SELECT * FROM runs LIMIT 1) AS one, {series}")  # noqa: S608
    tag = "CASE key WHEN 'analytics/plan' THEN md5('heads' || n) WHEN 'dagster/run_key' THEN md5('heads' || n) || '#0' ELSE value END"
    tags = f"SELECT 'old-' || n, key, {tag} FROM (SELECT * FROM run_tags) AS one, {series}"  # noqa: S608
    database.execute(f"INSERT INTO run_tags (run_id, key, value) {tags}")
    database.execute("ANALYZE")


@pytest.mark.fleet
def test_a_worker_whose_installation_lacks_something_says_so_in_the_run_and_nothing_is_lost(tmp_path: Path) -> None:
    with chaos.scene(tmp_path, 1) as (ships, found):
        ships.module = "tests.real.broken_code"
        ships.start_worker("one", WITHOUT_A_LIBRARY="1")
        ships.start_code()
        ships.start_daemon()
        chaos.produce(ships, 300, 300)
        until(lambda: any("No module named 'a_library'" in reason for reason in failures(ships)), seconds=90)
        ships.kill("one")
        ships.start_worker("two")
        chaos.settle(ships, found, 90)
        chaos.assert_whole(found, 300)


def failures(ships: Fleet) -> list[str]:
    """What the runs that failed say, as the UI shows it: message and error of each event."""
    with ships.instance() as instance:
        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        events = [each.dagster_event for run in failed for each in instance.all_logs(run.run_id) if each.dagster_event]
        return [f"{each.message} {getattr(each.event_specific_data, 'error', '')}" for each in events]


@pytest.mark.fleet
def test_a_run_that_is_terminated_is_canceled_and_its_worker_goes_on(tmp_path: Path) -> None:
    with chaos.scene(tmp_path, 1) as (ships, found):
        ships.module = lanes.MODULE
        ships.environment["WRITE_THREADS"] = "1"
        chaos.produce(ships, 10_000, 20_000)
        until(lambda: not ships.programs["shop"].is_alive(), seconds=60)
        chaos.begin(ships, "one")
        until(lambda: bool(ships.executors()), seconds=60)
        ((_, run),) = ships.executors().items()
        with ships.instance() as instance:
            instance.report_run_canceling(run)
            assert instance.run_launcher.terminate(run.run_id)
        until(lambda: [each.run_id for each in ships.runs(dg.DagsterRunStatus.CANCELED)] == [run.run_id], seconds=30)
        until(lambda: found.lag() == 0, seconds=90)
        assert ships.programs["one"].is_alive()


@pytest.mark.fleet
def test_a_run_that_is_terminated_while_it_follows_its_lane_ends_in_seconds_and_the_lane_goes_on(tmp_path: Path) -> None:
    with chaos.scene(tmp_path, 1) as (ships, found):
        ships.environment["TAIL_DURATION"] = "120s"
        chaos.begin(ships, "one")
        chaos.produce(ships, 60, 2)
        until(lambda: len(found.ports.ledger.last_batches(9)) > 3 and bool(ships.executors()), seconds=60)
        ((_, run),) = ships.executors().items()
        assert sum(map(len, chaos.plan_of(run).ranges)) < sum(heads(found).values()), "it goes on after its plan"
        with ships.instance() as instance:
            instance.report_run_canceling(run)
            assert instance.run_launcher.terminate(run.run_id)
        until(lambda: [each.run_id for each in ships.runs(dg.DagsterRunStatus.CANCELED)] == [run.run_id], seconds=10)
        chaos.settle(ships, found, 120)
        chaos.assert_whole(found, 60)
        assert ships.programs["one"].is_alive()
