"""Every interleaving of compactors and an ingest, up to a bound; and every planted fault is found on the way.

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
from tests.proof.replay import replay
from tests.proof.scene import Kinds, compactions
from tests.proof.schedules import Finding, Search

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "1"))
CRASHES = int(os.environ.get("CRASHES", "1"))


@pytest.mark.timeout(3600 if "PREEMPTIONS" in os.environ else 120)
def test_no_schedule_of_two_compactors_and_a_lane_shows_a_reader_an_hour_half_or_twice() -> None:
    verdict = Search(compactions(), PREEMPTIONS, CRASHES).run()
    assert verdict.finding is None, f"{verdict.finding.fault}\n{verdict.finding.schedule!r}"
    print(f"{verdict.schedules} schedules over {verdict.states} states and {verdict.worlds} contents of the stores")  # noqa: T201


class RevisionsWithoutCondition(MemoryLedger):
    """The last revision under a number stays."""

    def put_revision(self, revision: ArchiveRevision) -> ArchiveRevision:
        self._revisions[revision.hour] = [*self._revisions.get(revision.hour, [])[: revision.number - 1], revision]
        return revision


class MarkersOverwritten(MemoryObjectStore):
    """Whoever comes last writes its marker."""

    def put_if(self, blob: StoredObject, over: Callable[[bytes | None], bool]) -> bool:  # noqa: ARG002 - the port's signature
        self.put([blob])
        return True


def with_open_batches(hour: str, ports: Ports) -> HourFiles:
    """Every part that lies there counts, its batch closed or not."""
    account = account_of(hour, ports)
    known = set(account.revision.batches if account.revision else ())
    there = {batch for key in ports.object_store.list_keys(parquet_dir(hour)) if (batch := batch_id_of_part_key(key))}
    return replace(account, uncompacted_batches=tuple(sorted(there - known)))


account_of = hour_files.hour_files


def records_of_anything(batches: Sequence[str], ports: Ports) -> dict[str, BatchRecord]:
    return {batch: record for batch in batches if (record := ports.ledger.batch_record(batch))}


def unsound_never(account: HourFiles, seen: Any, wanted: Any) -> list[str]:  # noqa: ARG001 - as the flow's
    return []


def deaf_to_others(account: HourFiles, ports: Ports) -> None:
    """Goes on although an input has vanished because somebody else compacted the hour."""


def rows_of_what_is_left(hour: str, wanted: Mapping[str, int], table: ParquetWorkspace, ports: Ports) -> list[str]:  # noqa: ARG001 - as the flow's
    return []


def swept_before_the_marker(revision: ArchiveRevision, complete: bool | None, ports: Ports) -> bool:
    compaction.delete_superseded(revision, ports)
    return mark(revision, complete, ports)


mark = write_manifest


@pytest.mark.parametrize(
    ("kinds", "patched"),
    [
        pytest.param(Kinds(ledger=RevisionsWithoutCondition), {}, id="no condition on the revision"),
        pytest.param(
            Kinds(),
            {
                (hour_files, "hour_files"): with_open_batches,
                (compaction, "batch_records"): records_of_anything,
                (compaction, "_damaged_files"): unsound_never,
            },
            id="open batches are compacted",
        ),
        pytest.param(Kinds(object_store=MarkersOverwritten), {}, id="the marker goes back"),
        pytest.param(
            Kinds(),
            {(compaction, "require_unchanged"): deaf_to_others, (compaction, "rows_from_json"): rows_of_what_is_left},
            id="going on when an input has vanished",
        ),
        pytest.param(Kinds(), {(compaction, "write_manifest"): swept_before_the_marker}, id="inputs are swept before the marker"),
    ],
)
def test_a_planted_fault_is_found_and_its_schedule_shows_it_again(
    kinds: Kinds, patched: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (module, name), mutant in patched.items():
        monkeypatch.setattr(module, name, mutant)
    finding = _first_finding(kinds)
    assert finding is not None
    assert replay(compactions(kinds), finding.schedule) == finding.fault


def _first_finding(kinds: Kinds) -> Finding | None:
    """With as few preemptions as it takes."""
    findings = (Search(compactions(kinds), preemptions, crashes=1).run().finding for preemptions in range(3))
    return next(filter(None, findings), None)
