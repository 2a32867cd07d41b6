"""A search over the interleavings of two retention runs and an ingest of a reused id, up to a bound. It has to find every planted fault.

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
from analytics_defs.flows.retention.expiry_sweep import ExpirySweep
from analytics_defs.flows.stored import event_json
from analytics_defs.ports import Ports
from tests.proof.run_schedule import run_schedule
from tests.proof.scene import retention_of_event_json, retention_of_parquet
from tests.proof.schedules import Scene, Search

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "1"))
CRASHES = int(os.environ.get("CRASHES", "1"))


@pytest.fixture(autouse=True)
def without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip statistics: they start a database in each run and read no files of the hour. `tests.flows` tests them."""
    monkeypatch.setattr(expire_parquet, "compute_hourly_stats", lambda *_: None)


@pytest.mark.timeout(3600 if "PREEMPTIONS" in os.environ else 300)
@pytest.mark.parametrize("scene", [retention_of_event_json, retention_of_parquet])
def test_no_schedule_of_two_retentions_and_a_lane_loses_a_late_event_or_a_row(scene: Callable[[], Scene]) -> None:
    result = Search(scene(), PREEMPTIONS, CRASHES).run()
    assert result.finding is None, f"{result.finding.fault}\n{result.finding.schedule!r}"
    print(f"{result.schedules} schedules over {result.states} states and {result.store_states} contents of the stores")  # noqa: T201


def expiry_read_before_write(events: Sequence[Event], batch: Batch, ports: Ports) -> None:
    """Read the expiry of the hour before the object is written, not after it."""
    expired_through = {event.hour: event_json._expired_data(event.hour, ports).event_json_expired_through for event in events}
    existing_keys = {obj.key for obj in ports.object_store.put_many_if_absent([event_json._json_object(event, batch) for event in events])}
    for event in events:
        obj = event_json._json_object(event, batch)
        if expired_through[event.hour] or obj.key in existing_keys:
            ports.object_store.put([replace(obj, key=reused_id_event_key(event.hour, event.id, event.record.source))])


def nothing_expired(hour: str, ports: Ports) -> ExpiredData:  # noqa: ARG001 - as the flow's
    """Report that nothing of the hour expired."""
    return ExpiredData()


def manifest_not_written(revision: ArchiveRevision, complete: bool | None, ports: Ports) -> bool:  # noqa: ARG001 - as the flow's
    """Skip the manifest, so that files are deleted although it names them."""
    return False


def every_object_of_the_hour(hour: str, keys: list[str], old: set[str], turn: ExpirySweep) -> dict[str, int]:  # noqa: ARG001 - as the flow's
    """Return every object below the hour as expired, without regard to its batch."""
    return dict.fromkeys(keys, 0)


def rows_of_every_batch(found: ArchiveRevision, turn: ExpirySweep) -> ArchiveRevision | None:
    """Expire the rows of the hour without regard to the age of its batches."""
    return revision.with_expired_rows(found, turn.now) if found.batches else None


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("scene", "patches"),
    [
        pytest.param(
            retention_of_event_json, {(event_json, "_expired_data"): nothing_expired}, id="batches do not read the expiry of the hour"
        ),
        pytest.param(
            retention_of_event_json,
            {(event_json, "_put_reused_ids"): expiry_read_before_write},
            id="batches read the expiry before they write",
        ),
        pytest.param(
            retention_of_parquet, {(expire_parquet, "write_manifest"): manifest_not_written}, id="files are deleted before the manifest"
        ),
        pytest.param(
            retention_of_event_json, {(expire_event_json, "_old_objects"): every_object_of_the_hour}, id="objects expire by their key alone"
        ),
        pytest.param(retention_of_parquet, {(expire_parquet, "_without_rows"): rows_of_every_batch}, id="young rows expire"),
    ],
)
def test_a_planted_fault_is_found_and_its_schedule_reproduces_it(
    scene: Callable[[], Scene], patches: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (module, name), mutant in patches.items():
        monkeypatch.setattr(module, name, mutant)
    findings = (Search(scene(), preemptions, crashes=1).run().finding for preemptions in range(4))
    finding = next(filter(None, findings), None)
    assert finding is not None
    assert run_schedule(scene(), finding.schedule) == finding.fault
