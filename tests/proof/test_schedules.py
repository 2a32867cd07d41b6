"""Every interleaving of the real flow, up to a bound; and every planted fault is found on the way.

`PREEMPTIONS` and `CRASHES` in the environment set another bound (-1 preemptions: every interleaving there is; takes minutes and 6 GB);
`SCHEDULE` replays one schedule as a finding prints it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from analytics_defs.flows.ingest import execute_plan, reread_batch, write_batch
from tests.proof import mutants
from tests.proof.replay import replay
from tests.proof.scene import Kinds, two_lanes
from tests.proof.schedules import Finding, Move, Scene, Search
from tests.proof.states import frozen

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "3"))
CRASHES = int(os.environ.get("CRASHES", "1"))
NO_RULES: dict[tuple[Any, str], Any] = {(reread_batch, "_classify_all"): mutants.without_kept_rules(reread_batch._classify_all)}
"""By the same rules everybody stages the same bytes, and then it does not matter whose they are."""


@pytest.mark.timeout(3600 if "PREEMPTIONS" in os.environ else 300)
def test_no_schedule_of_two_lanes_with_two_executors_each_breaks_an_invariant() -> None:
    verdict = Search(two_lanes(), PREEMPTIONS, CRASHES).run()
    assert verdict.finding is None, f"{verdict.finding.fault}\nreplay it with SCHEDULE={verdict.finding.schedule!r}"
    print(  # noqa: T201 - shown by `pytest -rP`
        f"{verdict.schedules} schedules over {verdict.states} states and {verdict.worlds} contents of the stores: all invariants hold"
    )


@pytest.mark.skipif("SCHEDULE" not in os.environ, reason="SCHEDULE in the environment names the schedule to replay")
def test_the_schedule_of_the_environment() -> None:
    assert replay(two_lanes(), os.environ["SCHEDULE"]) is None


def test_a_schedule_in_threads_leaves_the_stores_as_the_search_says() -> None:
    chance = random.Random(0)

    def choose(moves: Sequence[Move]) -> Move:
        return chance.choice([move for move in moves if move.calls] if chance.random() < 0.98 else moves)

    search = Search(two_lanes(), preemptions=-1, crashes=1)
    for _ in range(40):
        schedule, expected = search.walk(choose)
        scene = two_lanes()
        scene.faults_at_end = lambda _: iter(())
        assert replay(scene, schedule) is None, schedule
        assert _contents(scene.stores) == _contents(expected), schedule


def _contents(stores: dict[str, Any]) -> Any:
    recent, archive, ledger = stores["recent_events"], stores["object_store"], stores["ledger"]
    accounts = {name: value for name, value in vars(ledger).items() if name != "lock"}
    return frozen([recent.items, archive.objects, accounts, vars(stores["event_log"])["_committed"]])


@pytest.mark.parametrize(
    ("kinds", "patched"),
    [
        pytest.param(Kinds(), {(execute_plan, "finish_batch"): mutants.closing_first}, id="commit before the stores confirm"),
        pytest.param(
            Kinds(), {(write_batch, "_claim_chunk"): mutants.archiving_first(write_batch._claim_chunk)}, id="archive before the claim"
        ),
        pytest.param(Kinds(ledger=mutants.HeadsWithoutCondition), {}, id="no condition on the head"),
        pytest.param(Kinds(recent_events=mutants.ClaimsWithoutCondition), {}, id="no condition on the claim"),
        pytest.param(Kinds(object_store=mutants.StagingOverwritten), NO_RULES, id="staging is overwritten"),
        pytest.param(Kinds(ledger=mutants.MarksIgnored), {}, id="nobody notes which staging file decides"),
        pytest.param(Kinds(ledger=mutants.LateRisersBelieved), NO_RULES, id="staging goes on after the close"),
    ],
)
def test_a_planted_fault_is_found_and_its_schedule_shows_it_again(
    kinds: Kinds, patched: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (module, name), mutant in patched.items():
        monkeypatch.setattr(module, name, mutant)
    finding = _first_finding(lambda: two_lanes(kinds))
    assert finding is not None
    assert replay(two_lanes(kinds), finding.schedule) == finding.fault


def _first_finding(scene: Callable[[], Scene]) -> Finding | None:
    """With as few preemptions as it takes."""
    findings = (Search(scene(), preemptions, crashes=1).run().finding for preemptions in range(4))
    return next(filter(None, findings), None)
