"""Audit of the Parquet folder of an hour: its manifest, and files that no batch and no revision wrote."""

from __future__ import annotations

from datetime import timedelta

from analytics_defs.core.hours.manifest import parse_manifest
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.storage.object_keys import batch_id_of_part_key, manifest_key, parquet_dir, revision_of_archive_key
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.hours.manifest import is_manifest_of
from analytics_defs.flows.stored.hour_files import HourFiles
from analytics_defs.ports import Ports

COMPACTION_TIME = timedelta(minutes=10)
"""A compaction writes its manifest within this time after its revision. An older revision without its manifest is a finding."""


def compare_folder(files: HourFiles, ports: Ports) -> list[str]:
    return [*_compare_manifest(files, ports), *_foreign_files(files, ports)]


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


def _foreign_files(files: HourFiles, ports: Ports) -> list[str]:
    """Return a finding for each file that is neither the manifest, nor an archive file or part of a known revision or batch."""
    keys = set(ports.object_store.list_keys(parquet_dir(files.hour))) - {manifest_key(files.hour), *files.keys}
    foreign = sorted(key for key in keys if not _is_known(key, files, ports))
    return [
        f"{key}: no batch and no revision of the ledger wrote this file. Remove it: readers of the folder read its rows." for key in foreign
    ]


def _is_known(key: str, files: HourFiles, ports: Ports) -> bool:
    batch_id, number = batch_id_of_part_key(key), revision_of_archive_key(key)
    if batch_id is not None:
        return ports.ledger.pending_batch(batch_id) is not None or ports.ledger.batch_record(batch_id) is not None
    return number is not None and number <= (files.revision.number if files.revision else 0) + 1
