"""Every interleaving of a replay with a compactor and an ingest, up to a bound; and every planted fault is found on the way.

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
from tests.proof.replay import replay
from tests.proof.scene import Kinds, replayed_hours, replayed_id
from tests.proof.schedules import Scene, Search

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "1"))
CRASHES = int(os.environ.get("CRASHES", "1"))


@pytest.mark.timeout(3600 if "PREEMPTIONS" in os.environ else 300)
@pytest.mark.parametrize(("scene", "preemptions"), [(replayed_hours, PREEMPTIONS), (replayed_id, PREEMPTIONS)])
def test_no_schedule_of_a_replay_beside_a_compactor_or_a_lane_breaks_what_readers_see(scene: Callable[[], Scene], preemptions: int) -> None:
    verdict = Search(scene(), preemptions, CRASHES).run()
    assert verdict.finding is None, f"{verdict.finding.fault}\n{verdict.finding.schedule!r}"
    print(f"{verdict.schedules} schedules over {verdict.states} states and {verdict.worlds} contents of the stores")  # noqa: T201


class WrittenOverAnything(MemoryObjectStore):
    """Whoever comes last has its object there."""

    def put_if(self, blob: StoredObject, over: Callable[[bytes | None], bool]) -> bool:
        if not blob.key.startswith("events/"):
            return super().put_if(blob, over)
        self.put([blob])
        return True


def not_marked(hour: str, ports: object) -> None:
    """Parts are removed whatever the marker says."""


def foreign_once_closed(self: EventJsonRepair, blob: StoredObject, item: StoredEvent | None) -> bool:  # noqa: ARG001 - as the method's
    """A batch that is still pending does not count."""
    batch = blob.metadata.get("batch", "")
    return batch > self.record.batch.id and self._ports.ledger.batch_record(batch) is not None


@pytest.mark.parametrize(
    ("scene", "kinds", "patched"),
    [
        pytest.param(
            replayed_hours,
            Kinds(),
            {(repair_batch, "repair_manifest"): not_marked, (flow, "repair_manifest"): not_marked},
            id="parts go before the marker",
        ),
        pytest.param(replayed_id, Kinds(object_store=WrittenOverAnything), {}, id="objects are written over anything"),
        pytest.param(
            replayed_id, Kinds(), {(EventJsonRepair, "_is_foreign"): foreign_once_closed}, id="objects of pending batches do not count"
        ),
    ],
)
def test_a_planted_fault_is_found_and_its_schedule_shows_it_again(
    scene: Callable[[Kinds], Scene], kinds: Kinds, patched: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (module, name), mutant in patched.items():
        monkeypatch.setattr(module, name, mutant)
    findings = (Search(scene(kinds), preemptions, crashes=1).run().finding for preemptions in range(3))
    finding = next(filter(None, findings), None)
    assert finding is not None
    assert replay(scene(kinds), finding.schedule) == finding.fault
