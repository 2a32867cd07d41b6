"""Parts of batches whose rows are compacted or expired. A zombie ingest run can write such a part again.

Exact readers ignore these parts. A reader of the whole folder reads their rows twice.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.storage.object_keys import parquet_dir, part_key
from analytics_defs.errors import AccessDenied
from analytics_defs.flows.hours.manifest import is_current
from analytics_defs.flows.stored.hour_files import HourFiles
from analytics_defs.ports import Ports

COMPACTION_TIME = timedelta(minutes=10)
"""A compaction writes its manifest and deletes its inputs within this time after its revision. An audit reports what is left later."""


def compacted_parts(revision: ArchiveRevision, ports: Ports) -> list[str]:
    """Return the keys of existing parts that no reader needs. Empty if the manifest is not that of the revision.

    Readers of an older manifest still need the parts of batches that it does not name.
    """
    known = {part_key(revision.hour, batch_id) for batch_id in revision.known_batches}
    parts = sorted(known.intersection(ports.object_store.list_keys(parquet_dir(revision.hour))))
    return parts if parts and is_current(revision, ports) else []


def delete_compacted_parts(revision: ArchiveRevision, ports: Ports) -> None:
    """Delete the parts that no reader needs. Idempotent."""
    ports.object_store.delete(compacted_parts(revision, ports))


def delete_own_compacted_parts(record: BatchRecord, ports: Ports) -> None:
    """Delete the parts that this executor wrote again after another one closed the batch and its hours were compacted.

    The parts stay if the executor's role may not read or delete Parquet. Then the audit names them.
    """
    with suppress(AccessDenied):
        for hour, key in record.parts.items():
            revision = ports.ledger.latest_revision(hour)
            if revision and record.batch.id in revision.known_batches and is_current(revision, ports):
                ports.object_store.delete([key])


def compacted_part_findings(files: HourFiles, ports: Ports) -> list[str]:
    """Name the parts that a zombie wrote again. Parts that a running compaction may delete are no finding."""
    revision = files.revision
    if revision is None or ports.clock.now() - revision.time <= COMPACTION_TIME:
        return []
    return [
        f"{key}: its batch is in revision {revision.number}, expected no part, so a reader of the whole folder reads its rows twice. "
        f"`analytics compact {files.hour}` deletes it."
        for key in compacted_parts(revision, ports)
    ]
