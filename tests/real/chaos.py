"""Workers die, sleep and come back, and lanes change, while a shop produces. The test takes two minutes; by hand, of any size:

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
from tests.real import plain, world
from tests.real.fleet import UNDER_WAY, Fleet, fleet
from tests.real.world import World

TOPICS = (4, 4, 4, 4)
WORKERS = ("one", "two", "three")
MOVES_WITHIN = 90.0


@dataclass(frozen=True, slots=True)
class Victim:
    """A run that was stopped in the middle of its work, and where its partitions stood."""

    run_all: dg.DagsterRun
    pid: int
    since: float
    stood: Mapping[TopicPartition, int]

    @property
    def lane(self) -> str:
        return self.run_all.tags[LANE_TAG]

    def moved(self, found: World) -> bool:
        heads = found.ports.ledger.snapshot().checkpoints
        return any(heads[each].next_offset > offset for each, offset in self.stood.items() if each in heads)


@contextmanager
def scene(folder: Path, lanes: int, **settings: Any) -> Iterator[tuple[Fleet, World]]:
    """Topics, stores, Redis and Postgres; nothing of the platform runs yet."""
    with (
        plain.topics(*TOPICS) as topics,
        world.new_world(topics, lanes=lanes, write_event_json=False, **settings) as found,
        fleet(folder, found.settings, TAIL_DURATION="20s") as ships,  # three times as many starts as by default
    ):
        try:
            yield ships, found
        except BaseException:
            click.echo(ships.story(found.ports.ledger.snapshot().leases))
            raise


SLOTS = 8
"""Of each worker: the one that is left takes every lane, and two runs of the hourly assets."""


def begin(ships: Fleet, *workers: str) -> None:
    for name in workers:
        ships.start_worker(name, SLOTS)
    ships.start_code()
    ships.start_daemon()
    ships.ready(*workers)


def produce(ships: Fleet, events: int, rate: float, shop: str = "shop") -> None:
    ships.start(shop, "analytics", "produce", "--count", str(events), "--rate", f"{rate:g}")


def catch(ships: Fleet, found: World, *workers: str) -> Victim:
    """A run that one of these workers executes, its process stopped: in the middle of its plan, or while it follows its lane."""
    caught: list[Victim] = []

    def one() -> bool:
        for pid, run in ships.executors().items():
            if ships.owner(pid) not in workers:
                continue
            os.kill(pid, signal.SIGSTOP)
            stood, since = _stands(run, found), time.monotonic()
            if [each for each in ships.runs(dg.DagsterRunStatus.STARTED) if each.run_id == run.run_id]:
                caught.append(Victim(run, pid, since, stood))
                return True
            os.kill(pid, signal.SIGCONT)
        return False

    until(one, seconds=60)
    return caught[0]


def _stands(run: dg.DagsterRun, found: World) -> dict[TopicPartition, int]:
    """Where the heads of its plan's partitions are, once what its process had sent before it was stopped is done."""
    starts = {each.topic_partition: each.start for each in plan_of(run).ranges}
    readings: list[dict[TopicPartition, int]] = []

    def are_still() -> bool:
        heads = found.ports.ledger.snapshot().checkpoints
        readings.append({each: heads[each].next_offset if each in heads else start for each, start in starts.items()})
        return readings[-1:] == readings[-2:-1]

    until(are_still)
    return readings[-1]


def plan_of(run: dg.DagsterRun) -> Plan:
    config: Any = run.run_config
    return PlanConfig(**config["ops"][INGEST_OP]["config"]).plan()


def a_round(ships: Fleet, found: World) -> dict[str, float]:
    """One worker loses a child, one is killed whole, one is stopped. Answers how long each of their lanes stood still."""
    one, two, three = WORKERS
    child = catch(ships, found, one)
    os.kill(child.pid, signal.SIGKILL)
    whole = catch(ships, found, two)
    ships.kill(two)
    asleep = catch(ships, found, three)
    ships.signal(three, signal.SIGSTOP)
    stood = {}
    for what, victim in (("child killed", child), ("worker killed", whole), ("worker stopped", asleep)):
        until(lambda victim=victim: victim.moved(found), seconds=MOVES_WITHIN + victim.since - time.monotonic())  # type: ignore[misc]
        stood[what] = time.monotonic() - victim.since
    ships.signal(three, signal.SIGCONT)
    ships.start_worker(two, SLOTS)
    ships.ready(two)
    return stood


def change_lanes(ships: Fleet, lanes: int) -> None:
    """A new code server with another LANES, and nothing else: returns when a run was asked for under it."""
    before = {run.run_id for run in ships.runs()}
    ships.end("code")
    ships.start_code(LANES=str(lanes))
    until(lambda: any(run.run_id not in before and int(run.tags[LANE_TAG]) < lanes for run in ships.runs()), seconds=60)


def settle(ships: Fleet, found: World, seconds: float) -> None:
    """Everything is produced, moved and committed, and no run is left."""
    shops = [program for name, program in ships.programs.items() if name.startswith("shop")]
    until(lambda: not any(shop.is_alive() for shop in shops) and found.lag() == 0, seconds=seconds)
    until(lambda: not ships.runs(dg.DagsterRunStatus.QUEUED, *UNDER_WAY), seconds=120)


def assert_whole(found: World, events: int) -> None:
    """Nothing lost, nothing doubled: the account has exactly what was produced, and every store agrees."""
    totals = audit_offsets(found.ports).totals
    assert totals.total == events, totals
    found.assert_sound()


def play(folder: Path, events: int, rate: float) -> dict[str, object]:
    """The whole: rounds of faults while events come, lanes 6, 2, 5, then rest and account."""
    with scene(folder, 6, max_offsets_per_run=4_000, batch_max_records=1_000) as (ships, found):
        begin(ships, *WORKERS)
        produce(ships, events, rate)
        rounds = [a_round(ships, found)]
        for lanes in (2, 5):
            change_lanes(ships, lanes)
        while events / rate > 200 and ships.programs["shop"].is_alive():
            rounds.append(a_round(ships, found))
        settle(ships, found, events / rate + 300)
        assert_whole(found, events)
        statuses = [run.status.value for run in ships.runs()]
    longest = {what: max(each[what] for each in rounds) for what in rounds[0]}
    return {"events": events, "rounds": len(rounds), "longest": longest, "runs": {each: statuses.count(each) for each in set(statuses)}}


@click.command()
@click.option("--events", default=200_000, show_default=True)
@click.option("--rate", default=500.0, show_default=True)
def main(events: int, rate: float) -> None:
    """Play it, and print what was seen."""
    with tempfile.TemporaryDirectory(prefix="analytics-chaos-") as folder:
        click.echo(play(Path(folder), events, rate))


if __name__ == "__main__":
    main()
