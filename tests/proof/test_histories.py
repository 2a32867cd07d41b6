"""Random histories against a small model; and planted faults are found that way as well.

`HISTORIES` in the environment sets another number of them, and then every run draws others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from analytics_defs.core.events.event import Event
from analytics_defs.flows.ingest import execute_plan, write_batch
from analytics_defs.ports import ClaimResult
from tests.proof import mutants
from tests.proof.histories import Histories
from tests.proof.model import WatchedRecentEvents

HISTORIES = int(os.environ.get("HISTORIES", "100"))
STEPS = 50
SETTINGS = settings(
    max_examples=HISTORIES,
    stateful_step_count=STEPS,
    derandomize="HISTORIES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(3600 if "HISTORIES" in os.environ else 120)
def test_every_record_has_one_fate_and_the_equation_holds_after_every_history() -> None:
    run_state_machine_as_test(Histories, settings=SETTINGS, _min_steps=STEPS // 2)


class ClaimsWithoutCondition(WatchedRecentEvents):
    """`mutants.ClaimsWithoutCondition`, watched."""

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        for event in events:
            self.items.pop(event.id, None)
        return super().claim(events, batch_time)


@pytest.mark.parametrize(
    ("doubles", "patched"),
    [
        pytest.param({}, {(execute_plan, "finish_batch"): mutants.closing_first}, id="commit before the stores confirm"),
        pytest.param({}, {(write_batch, "_claim_chunk"): mutants.archiving_first(write_batch._claim_chunk)}, id="archive before the claim"),
        pytest.param({"ledger": mutants.HeadsWithoutCondition}, {}, id="no condition on the head"),
        pytest.param({"ledger": mutants.MarksIgnored}, {}, id="nobody notes which staging file decides"),
        pytest.param({"recent": ClaimsWithoutCondition}, {}, id="no condition on the claim"),
    ],
)
def test_a_planted_fault_is_found(doubles: dict[str, Any], patched: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for (module, name), mutant in patched.items():
        monkeypatch.setattr(module, name, mutant)
    machine = type("Mutated", (Histories,), doubles)
    bounded = settings(SETTINGS, max_examples=400, derandomize=True, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=bounded, _min_steps=STEPS // 2)
