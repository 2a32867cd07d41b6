"""Two processes that execute one plan, zombie executors, and runs that are executed again. Nothing is stored twice."""

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
from tests.real import killable_run
from tests.real.killable_run import SUCCEEDED, Boundary, RunSpec
from tests.real.scene import Scene, last_hours, prepared
from tests.real.store_snapshot import differences, read_snapshot

pytestmark = pytest.mark.real

RUN_ID, OTHER_RUN_ID = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with prepared() as scene:
        yield scene


def exit_code(process: ForkServerProcess, spec: RunSpec) -> int | None:
    process.join(60)
    assert process.exitcode is not None, spec.output.read_text()
    return process.exitcode


def await_stop(process: ForkServerProcess) -> None:
    """Wait until the process has stopped itself."""
    deadline = time.monotonic() + 60
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.is_alive(), "the process ended before it stopped itself"
        assert time.monotonic() < deadline
        process.join(0.02)


@pytest.mark.parametrize("call", ["ledger.begin_batch", "ledger.mark_staged", "recent_events.claim", "ledger.close_batch"])
@pytest.mark.parametrize("run_ids", [(RUN_ID, OTHER_RUN_ID), (RUN_ID, RUN_ID)], ids=["two runs", "one run delivered twice"])
def test_two_concurrent_executors_of_a_plan_store_everything_once(
    scene: Scene, run_ids: tuple[str, str], call: str, tmp_path: Path
) -> None:
    """Both executors wait for each other before the call.

    If one run is delivered twice, they also wait before `begin_batch`. Otherwise the second one begins the next batch, which is
    correct, but then the two do not reach the same step.
    """
    same_run = run_ids[0] == run_ids[1]
    barriers = {name: killable_run.context.Barrier(2) for name in (["ledger.begin_batch", call] if same_run else [call])}
    with scene.provisioned() as settings, scene.opened(settings) as world:
        if call != "ledger.begin_batch" and not same_run:
            leave_pending_batch(RunSpec(settings, scene.plan, scene.now, tmp_path, "00000000-0000-4000-8000-000000000009"))
        specs = [
            RunSpec(settings, scene.plan, scene.now, new_folder(tmp_path, name), run_id, barriers=barriers)
            for name, run_id in zip("ab", run_ids, strict=True)
        ]
        with killable_run.launched(specs[0]) as first, killable_run.launched(specs[1]) as second:
            assert (exit_code(first, specs[0]), exit_code(second, specs[1])) == (SUCCEEDED, SUCCEEDED)
        world.settle()
        scene.assert_same_as_undisturbed(world)


def leave_pending_batch(spec: RunSpec) -> None:
    """Begin a batch and kill the run before it is staged, so that two runs finish the pending batch at the same time."""
    killed = RunSpec(spec.settings, spec.plan, spec.now, spec.folder, spec.run_id, Boundary("object_store.put_if_absent"))
    with killable_run.launched(killed) as process:
        assert exit_code(process, killed) == -signal.SIGKILL


def new_folder(parent: Path, name: str) -> Path:
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
def test_a_zombie_executor_changes_nothing_after_another_run_finished_its_plan(scene: Scene, boundary: Boundary, tmp_path: Path) -> None:
    stop_and_continue(scene, boundary, tmp_path)


@pytest.mark.parametrize("moment", ["before", "within"])
def test_a_zombie_executor_stopped_between_tars_changes_nothing(moment: Literal["before", "within"], tmp_path: Path) -> None:
    with prepared(last_hours()) as young_events:
        stop_and_continue(young_events, Boundary("object_store.put events", 2, moment), tmp_path, ignored_folder=TAR_PROBE)


def stop_and_continue(scene: Scene, boundary: Boundary, tmp_path: Path, ignored_folder: str | None = None) -> None:
    """Stop a run at the boundary, let another run finish the plan, and continue the first one.

    `ignored_folder` is a folder of the bucket that another thread of the stopped run may have written to.
    """
    with scene.provisioned() as settings, scene.opened(settings) as world:
        stopped = RunSpec(settings, scene.plan, scene.now, tmp_path, boundary=boundary, signal_number=signal.SIGSTOP)
        with killable_run.launched(stopped) as process:
            await_stop(process)
            assert stopped.boundary_file.read_text() == str(boundary)
            world.run(scene.plan, "replacement")
            world.settle()
            scene.assert_same_as_undisturbed(world, ignored_folder)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGCONT)
            assert exit_code(process, stopped) == SUCCEEDED
        differing = differences(read_snapshot(settings), scene.expected)
        assert [line for line in differing if not line.startswith("group offsets")] == []
        world.settle()
        scene.assert_same_as_undisturbed(world)


def test_a_plan_that_is_launched_twice_by_an_operator_is_ingested_once(scene: Scene, tmp_path: Path) -> None:
    """Re-executing a finished run in the UI does the same."""
    with scene.provisioned() as settings, scene.opened(settings) as world:
        specs = [RunSpec(settings, scene.plan, scene.now, tmp_path, run_id) for run_id in (RUN_ID, OTHER_RUN_ID)]
        for spec in specs:
            with killable_run.launched(spec) as process:
                assert exit_code(process, spec) == SUCCEEDED
        assert "nothing was left to do" in specs[-1].output.read_text()
        scene.assert_same_as_undisturbed(world)
