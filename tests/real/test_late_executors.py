"""Two processes on one plan, processes that wake up late, and runs that are executed again: nothing changes twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Literal

import psutil
import pytest

from analytics_defs.core.storage.object_keys import TAR_PROBE
from tests.real import doomed
from tests.real.doomed import SUCCEEDED, Boundary, Mission
from tests.real.picture import differences, picture
from tests.real.scene import Scene, last_hours, prepared

pytestmark = pytest.mark.real

ONE, OTHER = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with prepared() as found:
        yield found


def ended(process: ForkServerProcess, mission: Mission) -> int | None:
    process.join(60)
    assert process.exitcode is not None, mission.output.read_text()
    return process.exitcode


def await_stop(process: ForkServerProcess) -> None:
    """Until the process has stopped itself."""
    deadline = time.monotonic() + 60
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.is_alive(), "it ended instead"
        assert time.monotonic() < deadline
        process.join(0.02)


@pytest.mark.parametrize("call", ["ledger.begin_batch", "ledger.mark_staged", "recent_events.claim", "ledger.close_batch"])
@pytest.mark.parametrize("run_ids", [(ONE, OTHER), (ONE, ONE)], ids=["two runs", "one run delivered twice"])
def test_two_processes_that_meet_at_a_step_of_one_plan_store_everything_once(
    scene: Scene, run_ids: tuple[str, str], call: str, tmp_path: Path
) -> None:
    """One run delivered twice also meets at the take: a step later the second one would find its partitions taken and begin the next batch,
    beside the first one's, which is as sound, and not the same step.
    """
    same_run = run_ids[0] == run_ids[1]
    meetings = {each: doomed.context.Barrier(2) for each in (["ledger.begin_batch", call] if same_run else [call])}
    with scene.founded() as settings, scene.opened(settings) as world:
        if call != "ledger.begin_batch" and not same_run:
            left_pending(Mission(settings, scene.plan, scene.now, tmp_path, "00000000-0000-4000-8000-000000000009"))
        missions = [
            Mission(settings, scene.plan, scene.now, folder(tmp_path, name), run_id, meetings=meetings)
            for name, run_id in zip("ab", run_ids, strict=True)
        ]
        with doomed.launched(missions[0]) as first, doomed.launched(missions[1]) as second:
            assert (ended(first, missions[0]), ended(second, missions[1])) == (SUCCEEDED, SUCCEEDED)
        world.settle()
        scene.assert_whole(world)


def left_pending(mission: Mission) -> None:
    """A batch that was taken and not staged: what two recoveries then finish at the same time."""
    died = Mission(mission.settings, mission.plan, mission.now, mission.folder, mission.run_id, Boundary("object_store.put_if_absent"))
    with doomed.launched(died) as process:
        assert ended(process, died) == -signal.SIGKILL


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


@pytest.mark.parametrize(
    "boundary",
    [
        Boundary("ledger.begin_batch"),
        Boundary("object_store.put_if_absent"),
        Boundary("ledger.mark_staged"),
        Boundary("recent_events.claim", 2),
        Boundary("recent_events.claim", 3, "within"),
        Boundary("object_store.put events", 2, "within"),
        Boundary("object_store.put parquet", 1),
        Boundary("ledger.close_batch"),
        Boundary("event_log.commit"),
        Boundary("object_store.delete staging"),
    ],
    ids=str,
)
def test_a_process_that_sleeps_while_another_finishes_its_plan_changes_nothing_when_it_wakes_up(
    scene: Scene, boundary: Boundary, tmp_path: Path
) -> None:
    sleep_and_wake_up(scene, boundary, tmp_path)


@pytest.mark.parametrize("moment", ["before", "within"])
def test_a_process_that_sleeps_between_tars_changes_nothing_when_it_wakes_up(moment: Literal["before", "within"], tmp_path: Path) -> None:
    with prepared(last_hours()) as new_events:
        sleep_and_wake_up(new_events, Boundary("object_store.put events", 2, moment), tmp_path, asleep_in=TAR_PROBE)


def sleep_and_wake_up(scene: Scene, boundary: Boundary, tmp_path: Path, asleep_in: str | None = None) -> None:
    """Meanwhile another finishes the plan. `asleep_in`: the folder of the bucket in which another thread of the sleeper may stand."""
    with scene.founded() as settings, scene.opened(settings) as world:
        sleeper = Mission(settings, scene.plan, scene.now, tmp_path, boundary=boundary, number=signal.SIGSTOP)
        with doomed.launched(sleeper) as process:
            await_stop(process)
            assert sleeper.mark.read_text() == str(boundary)
            world.run(scene.plan, "replacement")
            world.settle()
            scene.assert_whole(world, asleep_in)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGCONT)
            assert ended(process, sleeper) == SUCCEEDED
        found = differences(picture(settings), scene.expected)
        assert [line for line in found if not line.startswith("group offsets")] == []
        world.settle()
        scene.assert_whole(world)


def test_a_plan_that_is_launched_twice_by_hand_moves_everything_once(scene: Scene, tmp_path: Path) -> None:
    """Also what re-executing a finished run in the UI does."""
    with scene.founded() as settings, scene.opened(settings) as world:
        missions = [Mission(settings, scene.plan, scene.now, tmp_path, run_id) for run_id in (ONE, OTHER)]
        for mission in missions:
            with doomed.launched(mission) as process:
                assert ended(process, mission) == SUCCEEDED
        assert "nothing was left to do" in missions[-1].output.read_text()
        scene.assert_whole(world)
