"""Every interleaving of two retentions and an ingest of an id that came again, up to a bound; and every planted fault is found on the way.

`PREEMPTIONS` and `CRASHES` in the environment set another bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from analytics_defs.core.events.event import Event
from analytics_defs.core.hours import revision
from analytics_defs.core.hours.revision import ArchiveRevision, ExpiredData
from analytics_defs.core.ledger import Batch
from analytics_defs.core.storage.object_keys import reused_id_event_key
from analytics_defs.flows.retention import expire_event_json, expire_parquet
from analytics_defs.flows.retention.sweep import ExpirySweep
from analytics_defs.flows.stored import event_json
from analytics_defs.ports import Ports
from tests.proof.replay import replay
from tests.proof.scene import forgotten_objects, forgotten_parquet
from tests.proof.schedules import Scene, Search

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "1"))
CRASHES = int(os.environ.get("CRASHES", "1"))


@pytest.fixture(autouse=True)
def without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a database a run, and nothing of the hour's files: `tests.flows` proves them."""
    monkeypatch.setattr(expire_parquet, "compute_hourly_stats", lambda *_: None)


@pytest.mark.timeout(3600 if "PREEMPTIONS" in os.environ else 300)
@pytest.mark.parametrize("scene", [forgotten_objects, forgotten_parquet])
def test_no_schedule_of_two_retentions_and_a_lane_takes_what_came_late_or_shows_an_hour_half(scene: Callable[[], Scene]) -> None:
    verdict = Search(scene(), PREEMPTIONS, CRASHES).run()
    assert verdict.finding is None, f"{verdict.finding.fault}\n{verdict.finding.schedule!r}"
    print(f"{verdict.schedules} schedules over {verdict.states} states and {verdict.worlds} contents of the stores")  # noqa: T201


def asked_too_early(events: Sequence[Event], batch: Batch, ports: Ports) -> None:
    """Batches ask whether the hour is frozen before they write the plain name."""
    touched = {event.hour: event_json._expired_data(event.hour, ports).event_json_expired_through for event in events}
    there = {blob.key for blob in ports.object_store.put_many_if_absent([event_json._json_object(event, batch) for event in events])}
    for event in events:
        blob = event_json._json_object(event, batch)
        if touched[event.hour] or blob.key in there:
            ports.object_store.put([replace(blob, key=reused_id_event_key(event.hour, event.id, event.record.source))])


def never_touched(hour: str, ports: Ports) -> ExpiredData:  # noqa: ARG001 - as the flow's
    """Batches do not ask whether the hour is frozen."""
    return ExpiredData()


def deleted_before_the_marker(revision: ArchiveRevision, complete: bool | None, ports: Ports) -> bool:  # noqa: ARG001 - as the flow's
    return False


def all_that_lies_there(hour: str, keys: list[str], old: set[str], turn: ExpirySweep) -> dict[str, int]:  # noqa: ARG001 - as the flow's
    """Objects go because they lie in the hour, whoever wrote them."""
    return dict.fromkeys(keys, 0)


def of_any_batch(found: ArchiveRevision, turn: ExpirySweep) -> ArchiveRevision | None:
    """Rows go, however young their batch is."""
    return revision.with_expired_rows(found, turn.now) if found.batches else None


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("scene", "patched"),
    [
        pytest.param(forgotten_objects, {(event_json, "_expired_data"): never_touched}, id="batches do not ask for the freeze"),
        pytest.param(forgotten_objects, {(event_json, "_put_reused_ids"): asked_too_early}, id="batches ask before they write"),
        pytest.param(forgotten_parquet, {(expire_parquet, "write_manifest"): deleted_before_the_marker}, id="files go before the marker"),
        pytest.param(forgotten_objects, {(expire_event_json, "_old_objects"): all_that_lies_there}, id="objects go by their place alone"),
        pytest.param(forgotten_parquet, {(expire_parquet, "_without_rows"): of_any_batch}, id="rows go however young"),
    ],
)
def test_a_planted_fault_is_found_and_its_schedule_shows_it_again(
    scene: Callable[[], Scene], patched: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (module, name), mutant in patched.items():
        monkeypatch.setattr(module, name, mutant)
    findings = (Search(scene(), preemptions, crashes=1).run().finding for preemptions in range(4))
    finding = next(filter(None, findings), None)
    assert finding is not None
    assert replay(scene(), finding.schedule) == finding.fault
