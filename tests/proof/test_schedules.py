"""A search over the interleavings of the real ingest, up to a bound. It has to find every planted fault.

`PREEMPTIONS` and `CRASHES` in the environment set another bound (-1 preemptions: every interleaving, takes minutes and 6 GB).
`SCHEDULE` executes one schedule in the form in which a finding prints it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from analytics_defs.flows.ingest import execute_plan, reread_batch, write_batch
from tests.proof import mutants
from tests.proof.damaged_ledger import DamagedLedger
from tests.proof.run_schedule import run_schedule
from tests.proof.scene import Doubles, deleted_checkpoint, restored_checkpoint, two_lanes
from tests.proof.schedules import Finding, Move, Scene, Search
from tests.proof.states import hashable

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "3"))
CRASHES = int(os.environ.get("CRASHES", "1"))
CURRENT_RULES: dict[tuple[Any, str], Any] = {(reread_batch, "_classify_all"): mutants.reread_with_current_rules(reread_batch._classify_all)}
"""With the same rules all executors stage the same bytes, and an overwritten staging file has no effect."""


@pytest.mark.timeout(3600 if "PREEMPTIONS" in os.environ else 300)
def test_no_schedule_of_two_lanes_with_two_executors_each_breaks_an_invariant() -> None:
    result = Search(two_lanes(), PREEMPTIONS, CRASHES).run()
    assert result.finding is None, f"{result.finding.fault}\nrun it with SCHEDULE={result.finding.schedule!r}"
    print(  # noqa: T201 - shown by `pytest -rP`
        f"{result.schedules} schedules over {result.states} states and {result.store_states} contents of the stores: all invariants hold"
    )


@pytest.mark.parametrize("scene", [deleted_checkpoint, restored_checkpoint])
def test_no_schedule_counts_a_record_twice_after_its_checkpoint_was_damaged(scene: Callable[[], Scene]) -> None:
    result = Search(scene(), PREEMPTIONS, CRASHES).run()
    assert result.finding is None, f"{result.finding.fault} in {result.finding.schedule!r}"


@pytest.mark.skipif("SCHEDULE" not in os.environ, reason="SCHEDULE in the environment names the schedule to run")
def test_the_schedule_of_the_environment() -> None:
    assert run_schedule(two_lanes(), os.environ["SCHEDULE"]) is None


def test_a_schedule_in_threads_leaves_the_stores_as_the_search_predicts() -> None:
    random_source = random.Random(0)

    def choose(moves: Sequence[Move]) -> Move:
        return random_source.choice([move for move in moves if move.calls] if random_source.random() < 0.98 else moves)

    search = Search(two_lanes(), preemptions=-1, crashes=1)
    for _ in range(40):
        schedule, expected = search.walk(choose)
        scene = two_lanes()
        scene.faults_at_end = lambda _: iter(())
        assert run_schedule(scene, schedule) is None, schedule
        assert _contents(scene.stores) == _contents(expected), schedule


def _contents(stores: dict[str, Any]) -> Any:
    recent_events, object_store, ledger = stores["recent_events"], stores["object_store"], stores["ledger"]
    ledger_state = {name: value for name, value in vars(ledger).items() if name != "lock"}
    return hashable([recent_events.items, object_store.objects, ledger_state, vars(stores["event_log"])["_committed"]])


@pytest.mark.parametrize(
    ("doubles", "patches"),
    [
        pytest.param(Doubles(), {(execute_plan, "finish_batch"): mutants.close_before_write}, id="close before the stores confirm"),
        pytest.param(
            Doubles(), {(write_batch, "_claim_chunk"): mutants.write_before_claim(write_batch._claim_chunk)}, id="write before the claim"
        ),
        pytest.param(Doubles(ledger=mutants.CheckpointsWithoutCondition), {}, id="no condition on the checkpoint"),
        pytest.param(Doubles(recent_events=mutants.ClaimsWithoutCondition), {}, id="no condition on the claim"),
        pytest.param(Doubles(object_store=mutants.StagingOverwritten), CURRENT_RULES, id="staging is overwritten"),
        pytest.param(Doubles(ledger=mutants.StagedDigestIgnored), {}, id="the staged digest is not recorded"),
        pytest.param(Doubles(ledger=mutants.ZombiesContinueAfterClose), CURRENT_RULES, id="a zombie continues after the close"),
    ],
)
def test_a_planted_fault_is_found_and_its_schedule_reproduces_it(
    doubles: Doubles, patches: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (module, name), mutant in patches.items():
        monkeypatch.setattr(module, name, mutant)
    finding = _first_finding(lambda: two_lanes(doubles))
    assert finding is not None
    assert run_schedule(two_lanes(doubles), finding.schedule) == finding.fault


@pytest.mark.parametrize(
    ("scene", "mutant"),
    [(deleted_checkpoint, mutants.AbsentCheckpointIsNew), (restored_checkpoint, mutants.ClosedRangeOverwritten)],
)
def test_a_search_with_a_damaged_checkpoint_finds_a_dropped_condition(
    scene: Callable[[Doubles], Scene], mutant: type[DamagedLedger]
) -> None:
    doubles = Doubles(ledger=mutant)
    finding = _first_finding(lambda: scene(doubles))
    assert finding is not None
    assert run_schedule(scene(doubles), finding.schedule) == finding.fault


def _first_finding(scene: Callable[[], Scene]) -> Finding | None:
    """Return the finding with the fewest preemptions."""
    findings = (Search(scene(), preemptions, crashes=1).run().finding for preemptions in range(4))
    return next(filter(None, findings), None)
