"""A search over the interleavings of a repair with a compactor and an ingest, up to a bound. It has to find every planted fault.

`PREEMPTIONS` and `CRASHES` in the environment set another bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from analytics_defs.adapters.memory import MemoryObjectStore
from analytics_defs.flows.repair import repair_batch
from analytics_defs.flows.repair import repair_range as flow
from analytics_defs.flows.repair.repair_event_json import EventJsonRepair
from analytics_defs.ports import StoredEvent, StoredObject
from tests.proof.run_schedule import run_schedule
from tests.proof.scene import Doubles, repaired_hours, repaired_id
from tests.proof.schedules import Scene, Search

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "1"))
CRASHES = int(os.environ.get("CRASHES", "1"))


@pytest.mark.timeout(3600 if "PREEMPTIONS" in os.environ else 300)
@pytest.mark.parametrize(("scene", "preemptions"), [(repaired_hours, PREEMPTIONS), (repaired_id, PREEMPTIONS)])
def test_no_schedule_of_a_repair_and_a_compactor_or_lane_breaks_what_readers_see(scene: Callable[[], Scene], preemptions: int) -> None:
    result = Search(scene(), preemptions, CRASHES).run()
    assert result.finding is None, f"{result.finding.fault}\n{result.finding.schedule!r}"
    print(f"{result.schedules} schedules over {result.states} states and {result.store_states} contents of the stores")  # noqa: T201


class EventObjectsOverwritten(MemoryObjectStore):
    """The last writer's event object wins."""

    def put_if(self, obj: StoredObject, may_replace: Callable[[bytes | None], bool]) -> bool:
        if not obj.key.startswith("events/"):
            return super().put_if(obj, may_replace)
        self.put([obj])
        return True


def manifest_not_repaired(hour: str, ports: object) -> None:
    """Leave the manifest unchanged, so that parts are deleted whatever it names."""


def foreign_only_if_closed(self: EventJsonRepair, object_: StoredObject, item: StoredEvent | None) -> bool:  # noqa: ARG001 - as the method's
    """Return whether a later batch owns the object, but ignore batches that are still pending."""
    batch = object_.metadata.get("batch", "")
    return batch > self.record.batch.id and self._ports.ledger.batch_record(batch) is not None


@pytest.mark.parametrize(
    ("scene", "doubles", "patches"),
    [
        pytest.param(
            repaired_hours,
            Doubles(),
            {(repair_batch, "repair_manifest"): manifest_not_repaired, (flow, "repair_manifest"): manifest_not_repaired},
            id="parts are deleted before the manifest",
        ),
        pytest.param(repaired_id, Doubles(object_store=EventObjectsOverwritten), {}, id="objects are overwritten without a condition"),
        pytest.param(
            repaired_id, Doubles(), {(EventJsonRepair, "_is_foreign"): foreign_only_if_closed}, id="objects of pending batches are ignored"
        ),
    ],
)
def test_a_planted_fault_is_found_and_its_schedule_reproduces_it(
    scene: Callable[[Doubles], Scene], doubles: Doubles, patches: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (module, name), mutant in patches.items():
        monkeypatch.setattr(module, name, mutant)
    findings = (Search(scene(doubles), preemptions, crashes=1).run().finding for preemptions in range(3))
    finding = next(filter(None, findings), None)
    assert finding is not None
    assert run_schedule(scene(doubles), finding.schedule) == finding.fault
