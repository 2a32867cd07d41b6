"""Workers are killed, stopped and restarted, and LANES changes, while a simulated shop produces events.

The test takes two minutes. A run of any size, by hand:

make servers; set -a; . .servers/env; set +a; .venv/bin/python -m tests.real.chaos --events 200000 --rate 500
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dagster as dg

from analytics_defs.core.ingest.planning import Plan
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.defs.ingest.job import INGEST_OP, LANE_TAG, PlanConfig
from analytics_defs.flows.audit.balance import audit_offsets
from tests.devstack.waiting import until
from tests.real import raw_clients, world
from tests.real.fleet import IN_PROGRESS, Fleet, new_fleet
from tests.real.world import World

TOPICS = (4, 4, 4, 4)
WORKERS = ("one", "two", "three")
PROGRESS_TIMEOUT_SECONDS = 90.0
"""Within this time the lane of a killed or stopped run makes progress again."""


@dataclass(frozen=True, slots=True)
class StoppedRun:
    """A run whose process was stopped by SIGSTOP, and the checkpoints of its partitions at that time."""

    run: dg.DagsterRun
    pid: int
    stopped_at: float
    """As `time.monotonic()` gives it."""
    offsets: Mapping[TopicPartition, int]

    @property
    def lane(self) -> str:
        return self.run.tags[LANE_TAG]

    def lane_progressed(self, platform: World) -> bool:
        """Return whether a checkpoint of the run's partitions moved since it was stopped."""
        checkpoints = platform.ports.ledger.snapshot().checkpoints
        moved = {partition: checkpoints[partition].next_offset for partition in self.offsets if partition in checkpoints}
        return any(offset > self.offsets[partition] for partition, offset in moved.items())


@contextmanager
def scene(folder: Path, lanes: int, **settings: Any) -> Iterator[tuple[Fleet, World]]:
    """Provide topics, stores, Redis and Postgres. No program of the platform runs yet."""
    with (
        raw_clients.topics(*TOPICS) as topics,
        world.new_world(topics, lanes=lanes, write_event_json=False, **settings) as platform,
        new_fleet(folder, platform.settings, TAIL_DURATION="20s") as fleet,  # three times as many run starts as by default
    ):
        try:
            yield fleet, platform
        except BaseException:
            click.echo(fleet.diagnostics(platform.ports.ledger.snapshot().leases))
            raise


SLOTS = 8
"""Slots of each worker. A single remaining worker can execute every lane and two runs of the hourly assets."""


def start_platform(fleet: Fleet, *workers: str) -> None:
    for name in workers:
        fleet.start_worker(name, SLOTS)
    fleet.start_code()
    fleet.start_daemon()
    fleet.await_workers(*workers)


def produce(fleet: Fleet, events: int, rate: float, shop: str = "shop") -> None:
    fleet.start(shop, "analytics", "produce", "--count", str(events), "--rate", f"{rate:g}")


def stop_a_run(fleet: Fleet, platform: World, *workers: str) -> StoppedRun:
    """Send SIGSTOP to a run that one of these workers executes, within its plan or while it tails its lane."""
    stopped: list[StoppedRun] = []

    def try_to_stop() -> bool:
        for pid, run in fleet.executors().items():
            if fleet.owner(pid) not in workers:
                continue
            os.kill(pid, signal.SIGSTOP)
            offsets, stopped_at = _stable_checkpoints(run, platform), time.monotonic()
            if run.run_id in [started.run_id for started in fleet.runs(dg.DagsterRunStatus.STARTED)]:
                stopped.append(StoppedRun(run, pid, stopped_at, offsets))
                return True
            os.kill(pid, signal.SIGCONT)
        return False

    until(try_to_stop, seconds=60)
    return stopped[0]


def _stable_checkpoints(run: dg.DagsterRun, platform: World) -> dict[TopicPartition, int]:
    """Return the checkpoints of the run's partitions when two reads agree: a request may still be in flight after SIGSTOP."""
    starts = {range_.topic_partition: range_.start for range_ in plan_of(run).ranges}
    reads: list[dict[TopicPartition, int]] = []

    def are_stable() -> bool:
        checkpoints = platform.ports.ledger.snapshot().checkpoints
        reads.append(
            {partition: checkpoints[partition].next_offset if partition in checkpoints else start for partition, start in starts.items()}
        )
        return reads[-1:] == reads[-2:-1]

    until(are_stable)
    return reads[-1]


def plan_of(run: dg.DagsterRun) -> Plan:
    config: Any = run.run_config
    return PlanConfig(**config["ops"][INGEST_OP]["config"]).plan()


def fault_round(fleet: Fleet, platform: World) -> dict[str, float]:
    """Kill a child of one worker, kill a second worker, stop a third. Return by fault the seconds without progress of the lane."""
    one, two, three = WORKERS
    child_killed = stop_a_run(fleet, platform, one)
    os.kill(child_killed.pid, signal.SIGKILL)
    worker_killed = stop_a_run(fleet, platform, two)
    fleet.kill(two)
    worker_stopped = stop_a_run(fleet, platform, three)
    fleet.signal(three, signal.SIGSTOP)
    seconds = {}
    for fault, run in (("child killed", child_killed), ("worker killed", worker_killed), ("worker stopped", worker_stopped)):
        left = PROGRESS_TIMEOUT_SECONDS + run.stopped_at - time.monotonic()
        until(lambda run=run: run.lane_progressed(platform), seconds=left)  # type: ignore[misc]
        seconds[fault] = time.monotonic() - run.stopped_at
    fleet.signal(three, signal.SIGCONT)
    fleet.start_worker(two, SLOTS)
    fleet.await_workers(two)
    return seconds


def change_lanes(fleet: Fleet, lanes: int) -> None:
    """Restart only the code server with another LANES. Return when a run was requested under the new number."""
    before = {run.run_id for run in fleet.runs()}
    fleet.end("code")
    fleet.start_code(LANES=str(lanes))
    until(lambda: any(run.run_id not in before and int(run.tags[LANE_TAG]) < lanes for run in fleet.runs()), seconds=60)


def settle(fleet: Fleet, platform: World, seconds: float) -> None:
    """Wait until all events are produced, ingested and committed, and no run is left."""
    shops = [program for name, program in fleet.programs.items() if name.startswith("shop")]
    until(lambda: not any(shop.is_alive() for shop in shops) and platform.lag() == 0, seconds=seconds)
    until(lambda: not fleet.runs(dg.DagsterRunStatus.QUEUED, *IN_PROGRESS), seconds=120)


def assert_all_accounted_for(platform: World, events: int) -> None:
    """Fail unless the audit counts exactly the produced events and every store agrees."""
    totals = audit_offsets(platform.ports).totals
    assert totals.total == events, totals
    platform.assert_consistent()


def run_chaos(folder: Path, events: int, rate: float) -> dict[str, object]:
    """Run rounds of faults and 6, 2, then 5 lanes while events are produced. Then settle and audit. Return statistics."""
    with scene(folder, 6, max_offsets_per_run=4_000, batch_max_records=1_000) as (fleet, platform):
        start_platform(fleet, *WORKERS)
        produce(fleet, events, rate)
        rounds = [fault_round(fleet, platform)]
        for lanes in (2, 5):
            change_lanes(fleet, lanes)
        while events / rate > 200 and fleet.programs["shop"].is_alive():
            rounds.append(fault_round(fleet, platform))
        settle(fleet, platform, events / rate + 300)
        assert_all_accounted_for(platform, events)
        statuses = [run.status.value for run in fleet.runs()]
    longest = {fault: max(seconds[fault] for seconds in rounds) for fault in rounds[0]}
    counts = {status: statuses.count(status) for status in set(statuses)}
    return {"events": events, "rounds": len(rounds), "longest": longest, "runs": counts}


@click.command()
@click.option("--events", default=200_000, show_default=True)
@click.option("--rate", default=500.0, show_default=True)
def main(events: int, rate: float) -> None:
    """Run the chaos test and print its statistics."""
    with tempfile.TemporaryDirectory(prefix="analytics-chaos-") as folder:
        click.echo(run_chaos(Path(folder), events, rate))


if __name__ == "__main__":
    main()
