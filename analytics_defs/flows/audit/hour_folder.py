"""Audit of the folders of an hour: the manifest, and files that no batch and no revision wrote."""

from __future__ import annotations

from analytics_defs.core.hours.manifest import parse_manifest
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.storage.object_keys import (
    batch_id_of_ndjson_key,
    batch_id_of_part_key,
    dead_letters_dir,
    duplicates_dir,
    manifest_key,
    parquet_dir,
    revision_of_archive_key,
)
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.hours.manifest import is_manifest_of
from analytics_defs.flows.stored.compacted_parts import COMPACTION_TIME
from analytics_defs.flows.stored.hour_files import HourFiles
from analytics_defs.ports import Ports


def compare_folder(files: HourFiles, ports: Ports) -> list[str]:
    """Return the findings about the hour's Parquet folder, and about the dead letters and duplicates of batches that began in it."""
    foreign = [*_foreign_parquet(files, ports), *_foreign_ndjson(files.hour, ports)]
    return [
        *_compare_manifest(files, ports),
        *(f"{key}: no batch and no revision of the ledger names this file. Remove it." for key in foreign),
    ]


def _compare_manifest(files: HourFiles, ports: Ports) -> list[str]:
    """Compare the manifest with the newest revision. One of an older revision is no finding while a compaction may replace it."""
    key = manifest_key(files.hour)
    manifest, revision = ports.object_store.get(key), ports.ledger.latest_revision(files.hour)
    if is_manifest_of(manifest, revision) or _may_be_replaced(manifest, revision, key, ports):
        return []
    if revision is None:
        return [f"{key}: the hour has no revision in the ledger, expected no manifest. Remove it."]
    found = "none" if manifest is None else "other bytes"
    return [f"{key}: expected the manifest of revision {revision.number}, found {found}. `analytics repair` of the hour writes it again."]


def _may_be_replaced(manifest: bytes | None, revision: ArchiveRevision | None, key: str, ports: Ports) -> bool:
    if revision is None or ports.clock.now() - revision.time > COMPACTION_TIME:
        return False
    try:
        return manifest is None or parse_manifest(manifest, key).revision < revision.number
    except InconsistentState:
        return False


def _foreign_parquet(files: HourFiles, ports: Ports) -> list[str]:
    """Return the files that are neither the manifest, nor an archive file or part of a known revision or batch."""
    keys = set(ports.object_store.list_keys(parquet_dir(files.hour))) - {manifest_key(files.hour), *files.keys}
    return sorted(key for key in keys if not _is_known(key, files, ports))


def _foreign_ndjson(hour: str, ports: Ports) -> list[str]:
    """Return the files that no record names. One query reads the records; only the other files cost a look-up."""
    records = ports.ledger.batches_of_day(hour[:10])
    named = {key for record in records for key in (record.dead_letters_key, record.duplicates_key)}
    keys = [key for folder in (dead_letters_dir(hour), duplicates_dir(hour)) for key in ports.object_store.list_keys(folder)]
    return [key for key in keys if key not in named and not _is_named(key, ports)]


def _is_named(key: str, ports: Ports) -> bool:
    batch_id = batch_id_of_ndjson_key(key)
    if batch_id is None or ports.ledger.pending_batch(batch_id):
        return batch_id is not None
    record = ports.ledger.batch_record(batch_id)
    return record is not None and key in (record.dead_letters_key, record.duplicates_key)


def _is_known(key: str, files: HourFiles, ports: Ports) -> bool:
    batch_id, number = batch_id_of_part_key(key), revision_of_archive_key(key)
    if batch_id is not None:
        return ports.ledger.pending_batch(batch_id) is not None or ports.ledger.batch_record(batch_id) is not None
    return number is not None and number <= (files.revision.number if files.revision else 0) + 1
