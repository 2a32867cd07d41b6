"""A search over the interleavings of compactors and an ingest, up to a bound. It has to find every planted fault.

`PREEMPTIONS` and `CRASHES` in the environment set another bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from analytics_defs.adapters.memory import MemoryLedger, MemoryObjectStore
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.storage.object_keys import batch_id_of_part_key, parquet_dir
from analytics_defs.flows.hours import compaction
from analytics_defs.flows.hours.manifest import write_manifest
from analytics_defs.flows.stored import hour_files
from analytics_defs.flows.stored.hour_files import HourFiles
from analytics_defs.ports import ParquetWorkspace, Ports, StoredObject
from tests.proof.run_schedule import run_schedule
from tests.proof.scene import Doubles, compactions
from tests.proof.schedules import Finding, Search

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "1"))
CRASHES = int(os.environ.get("CRASHES", "1"))


@pytest.mark.timeout(3600 if "PREEMPTIONS" in os.environ else 120)
def test_no_schedule_of_two_compactors_and_a_lane_breaks_what_readers_see() -> None:
    result = Search(compactions(), PREEMPTIONS, CRASHES).run()
    assert result.finding is None, f"{result.finding.fault}\n{result.finding.schedule!r}"
    print(f"{result.schedules} schedules over {result.states} states and {result.store_states} contents of the stores")  # noqa: T201


class RevisionsWithoutCondition(MemoryLedger):
    """The last revision with a number wins."""

    def put_revision(self, revision: ArchiveRevision) -> ArchiveRevision:
        self._revisions[revision.hour] = [*self._revisions.get(revision.hour, [])[: revision.number - 1], revision]
        return revision


class ManifestsOverwritten(MemoryObjectStore):
    """The last writer's manifest wins."""

    def put_if(self, obj: StoredObject, may_replace: Callable[[bytes | None], bool]) -> bool:  # noqa: ARG002 - the port's signature
        self.put([obj])
        return True


def with_parts_of_open_batches(hour: str, ports: Ports) -> HourFiles:
    """Return the hour with every existing part, also those of open batches."""
    files = read_hour_files(hour, ports)
    compacted = set(files.revision.batches if files.revision else ())
    batches_of_parts = {batch for key in ports.object_store.list_keys(parquet_dir(hour)) if (batch := batch_id_of_part_key(key))}
    return replace(files, uncompacted_batches=tuple(sorted(batches_of_parts - compacted)))


read_hour_files = hour_files.hour_files


def records_of_known_batches(batches: Sequence[str], ports: Ports) -> dict[str, BatchRecord]:
    return {batch: record for batch in batches if (record := ports.ledger.batch_record(batch))}


def no_broken_inputs(account: HourFiles, seen: Any, wanted: Any) -> list[str]:  # noqa: ARG001 - as the flow's
    """Accept every input."""
    return []


def require_nothing(account: HourFiles, ports: Ports) -> None:
    """Continue although another compactor deleted an input."""


def no_rows_from_json(hour: str, wanted: Mapping[str, int], table: ParquetWorkspace, ports: Ports) -> list[str]:  # noqa: ARG001 - as the flow's
    return []


def deleted_before_the_manifest(revision: ArchiveRevision, complete: bool | None, ports: Ports) -> bool:
    """Delete the inputs before the manifest is written."""
    compaction.delete_superseded(revision, ports)
    return write_manifest(revision, complete, ports)


@pytest.mark.parametrize(
    ("doubles", "patches"),
    [
        pytest.param(Doubles(ledger=RevisionsWithoutCondition), {}, id="no condition on the revision"),
        pytest.param(
            Doubles(),
            {
                (hour_files, "hour_files"): with_parts_of_open_batches,
                (compaction, "batch_records"): records_of_known_batches,
                (compaction, "_damaged_files"): no_broken_inputs,
            },
            id="open batches are compacted",
        ),
        pytest.param(Doubles(object_store=ManifestsOverwritten), {}, id="an older manifest replaces a newer one"),
        pytest.param(
            Doubles(),
            {(compaction, "require_unchanged"): require_nothing, (compaction, "rows_from_json"): no_rows_from_json},
            id="compaction continues with a missing input",
        ),
        pytest.param(Doubles(), {(compaction, "write_manifest"): deleted_before_the_manifest}, id="inputs are deleted before the manifest"),
    ],
)
def test_a_planted_fault_is_found_and_its_schedule_reproduces_it(
    doubles: Doubles, patches: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (module, name), mutant in patches.items():
        monkeypatch.setattr(module, name, mutant)
    finding = _first_finding(doubles)
    assert finding is not None
    assert run_schedule(compactions(doubles), finding.schedule) == finding.fault


def _first_finding(doubles: Doubles) -> Finding | None:
    """Return the finding with the fewest preemptions."""
    findings = (Search(compactions(doubles), preemptions, crashes=1).run().finding for preemptions in range(3))
    return next(filter(None, findings), None)
