"""Random histories compared with a small model. They have to find planted faults as well.

`HISTORIES` in the environment sets another number of histories. Then every run draws different ones.
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
def test_every_record_has_one_outcome_and_all_offsets_are_accounted_for() -> None:
    run_state_machine_as_test(Histories, settings=SETTINGS, _min_steps=STEPS // 2)


class ClaimsWithoutCondition(WatchedRecentEvents):
    """`mutants.ClaimsWithoutCondition` that reports its claims to the model."""

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        for event in events:
            self.items.pop(event.id, None)
        return super().claim(events, batch_time)


@pytest.mark.parametrize(
    ("doubles", "patches"),
    [
        pytest.param({}, {(execute_plan, "finish_batch"): mutants.close_before_write}, id="close before the stores confirm"),
        pytest.param(
            {}, {(write_batch, "_claim_chunk"): mutants.write_before_claim(write_batch._claim_chunk)}, id="write before the claim"
        ),
        pytest.param({"ledger": mutants.CheckpointsWithoutCondition}, {}, id="no condition on the checkpoint"),
        pytest.param({"ledger": mutants.StagedDigestIgnored}, {}, id="the staged digest is not recorded"),
        pytest.param({"recent": ClaimsWithoutCondition}, {}, id="no condition on the claim"),
    ],
)
def test_a_planted_fault_is_found(doubles: dict[str, Any], patches: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for (module, name), mutant in patches.items():
        monkeypatch.setattr(module, name, mutant)
    machine = type("Mutated", (Histories,), doubles)
    bounded = settings(SETTINGS, max_examples=400, derandomize=True, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=bounded, _min_steps=STEPS // 2)
