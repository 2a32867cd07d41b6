"""SIGKILL of a run's own process, at every boundary of a batch's life and within its steps; then recovery, compared byte for byte."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_defs.core.storage.object_keys import TAR_PROBE
from tests.real import doomed, plain
from tests.real.doomed import Boundary, Mission
from tests.real.proxy import Exchange, http_proxy, passing
from tests.real.scene import Scene, last_hours, prepared

pytestmark = pytest.mark.real

CALLS = [
    ("ledger.open_topic", 1),
    ("ledger.open_topic", 2),
    ("event_log.read", 1),
    ("event_log.explain_gaps", 1),
    ("ledger.begin_batch", 1),
    ("object_store.put_if_absent", 1),
    ("ledger.mark_staged", 1),
    ("recent_events.claim", 1),
    ("recent_events.claim", 2),
    ("recent_events.claim", 4),
    ("object_store.put events", 1),
    ("object_store.put events", 3),
    ("object_store.put parquet", 1),
    ("object_store.put parquet", 2),
    ("object_store.put dead-letters", 1),
    ("object_store.put repeats", 1),
    ("ledger.close_batch", 1),
    ("event_log.commit", 1),
    ("object_store.delete staging", 1),
    # of the second batch
    ("ledger.begin_batch", 2),
    ("recent_events.claim", 5),
    ("ledger.close_batch", 2),
    ("object_store.delete staging", 2),
]
BOUNDARIES = [
    *(Boundary(call, number, "before") for call, number in CALLS),
    *(Boundary(call, number, "after") for call, number in CALLS),
    *(Boundary(call, number, "within") for call in ("recent_events.claim", "object_store.put events") for number in (1, 3)),
]
RETRY_FAILS_TOO = "00000000-0000-4000-8000-000000000002"


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with prepared() as found:
        yield found


@pytest.fixture(scope="module")
def new_events() -> Iterator[Scene]:
    with prepared(last_hours()) as found:
        yield found


def die(mission: Mission) -> None:
    """Run to the mission's boundary, and see that it was the boundary that ended the process."""
    with doomed.launched(mission) as process:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, mission.output.read_text()
    assert mission.mark.read_text() == str(mission.boundary)


def recover(scene: Scene, mission: Mission, besides: str | None = None) -> None:
    """A run of the same plan, then whatever the sensor still finds to do, then the dead run again, as one that was only late."""
    with scene.opened(mission.settings) as world:
        world.run(scene.plan, "retry")
        world.settle()
        assert world.run(scene.plan, mission.run_id).closed == []
        world.settle()
        scene.assert_whole(world, besides)


def die_and_recover(scene: Scene, boundary: Boundary, folder: Path, besides: str | None = None) -> None:
    with scene.founded() as settings:
        mission = Mission(settings, scene.plan, scene.now, folder, boundary=boundary)
        die(mission)
        recover(scene, mission, besides)


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=str)
def test_a_run_that_is_killed_at_a_boundary_leaves_no_trace_after_recovery(scene: Scene, boundary: Boundary, tmp_path: Path) -> None:
    die_and_recover(scene, boundary, tmp_path)


@pytest.mark.parametrize("boundary", [Boundary("object_store.put events", 3, moment) for moment in ("before", "within", "after")], ids=str)
def test_a_run_that_is_killed_between_tars_leaves_no_trace_after_recovery(new_events: Scene, boundary: Boundary, tmp_path: Path) -> None:
    """Another thread may just ask the store whether it unpacks tars: what it wrote for that goes with a question an hour later."""
    die_and_recover(new_events, boundary, tmp_path, TAR_PROBE)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Boundary("ledger.begin_batch"), Boundary("ledger.begin_batch", 1, "after")),
        (Boundary("ledger.begin_batch", 1, "after"), Boundary("object_store.put_if_absent", 1, "after")),
        (Boundary("recent_events.claim", 2, "within"), Boundary("recent_events.claim", 3, "within")),
        (Boundary("object_store.put events", 2, "within"), Boundary("ledger.close_batch")),
        (Boundary("ledger.close_batch", 1, "after"), Boundary("ledger.close_batch", 1, "after")),
    ],
    ids=str,
)
def test_a_run_whose_retry_is_killed_too_leaves_no_trace_after_recovery(
    scene: Scene, first: Boundary, second: Boundary, tmp_path: Path
) -> None:
    with scene.founded() as settings:
        mission = Mission(settings, scene.plan, scene.now, tmp_path, boundary=first)
        die(mission)
        die(Mission(settings, scene.plan, scene.now, tmp_path, RETRY_FAILS_TOO, second))
        recover(scene, mission)


class Assassin:
    """A rule of a proxy: kills the process while its n-th such request is in flight."""

    def __init__(self, marks: bytes, number: int, *, done: bool) -> None:
        """`marks`: what the request contains. `done`: the server did it, and only the answer is lost; else it sees half of it."""
        self._marks, self._left, self._done = marks, number, done
        self.pid: int | None = None
        self.killed = False

    def __call__(self, exchange: Exchange) -> None:
        self._left -= self._marks in exchange.raw
        if self._left or self.killed or self._marks not in exchange.raw:
            passing(exchange)
            return
        self.killed = True
        if self._done:
            exchange.forward()
        else:
            exchange.forward_half()
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        exchange.hang_up()


TRANSACTIONS = {
    "begin": (b'"#first":"first"', 1),
    "mark": (b'"#staged":"staged"', 1),
    "first claim": (b":claimable_until", 1),
    "middle claim": (b":claimable_until", 3),
    "close": (b'"Delete"', 1),
}


@pytest.mark.parametrize("done", [True, False], ids=["done", "half sent"])
@pytest.mark.parametrize("transaction", TRANSACTIONS)
def test_a_run_that_is_killed_while_a_transaction_is_in_flight_leaves_no_trace_after_recovery(
    scene: Scene, transaction: str, done: bool, tmp_path: Path
) -> None:
    assassin = Assassin(*TRANSACTIONS[transaction], done=done)
    with scene.founded() as settings, http_proxy(settings.dynamo_endpoint) as proxy:
        proxy.rule = assassin
        through = settings.model_copy(update={"dynamo_endpoint": proxy.url})
        mission = Mission(through, scene.plan, scene.now, tmp_path)
        killed_in_flight(mission, assassin)
        recover(scene, Mission(settings, scene.plan, scene.now, tmp_path))


@pytest.mark.parametrize("done", [True, False], ids=["done", "half sent"])
@pytest.mark.parametrize(("tree", "number"), [("staging", 1), ("events", 1), ("events", 40), ("parquet", 2)])
def test_a_run_that_is_killed_while_an_object_is_in_flight_leaves_no_trace_after_recovery(
    scene: Scene, tree: str, number: int, done: bool, tmp_path: Path
) -> None:
    with scene.founded() as settings, http_proxy(settings.minio_endpoint) as proxy:
        assassin = Assassin(f"PUT /{settings.archive_bucket_name}/{tree}/".encode(), number, done=done)
        proxy.rule = assassin
        through = settings.model_copy(update={"minio_endpoint": proxy.url, "minio_snowball": "off"})
        mission = Mission(through, scene.plan, scene.now, tmp_path)
        killed_in_flight(mission, assassin)
        recover(scene, Mission(settings, scene.plan, scene.now, tmp_path))


@pytest.mark.parametrize("done", [True, False], ids=["done", "half sent"])
@pytest.mark.parametrize("number", [1, 2, 3, 5], ids=["probe", "impossible probe", "first tar", "third tar"])
def test_a_run_that_is_killed_while_a_tar_is_in_flight_leaves_no_trace_after_recovery_but_the_probe_s_own(
    new_events: Scene, number: int, done: bool, tmp_path: Path
) -> None:
    scene = new_events
    with scene.founded() as settings, http_proxy(settings.minio_endpoint) as proxy:
        assassin = Assassin(f"PUT /{settings.archive_bucket_name}/unpacking/".encode(), number, done=done)
        proxy.rule = assassin
        through = settings.model_copy(update={"minio_endpoint": proxy.url})
        mission = Mission(through, scene.plan, scene.now, tmp_path)
        killed_in_flight(mission, assassin)
        left = plain.keys(settings.archive_bucket_name, "unpacking/")
        assert len(left) <= 3 * (number <= 2), left
        for key in left:
            plain.s3().delete_object(Bucket=settings.archive_bucket_name, Key=key)
        recover(scene, Mission(settings, scene.plan, scene.now, tmp_path))


def killed_in_flight(mission: Mission, assassin: Assassin) -> None:
    with doomed.launched(mission) as process:
        assassin.pid = process.pid
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, mission.output.read_text()
    assert assassin.killed
