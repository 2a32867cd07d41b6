"""Parquet: a revision without files, and the compactor's sweep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from analytics_defs.core.hours.revision import ArchiveRevision, with_expired_rows
from analytics_defs.core.storage.object_keys import PARQUET, batch_id_of_part_key, manifest_key, parquet_dir, revision_of_archive_key
from analytics_defs.core.timestamps import hour_of
from analytics_defs.flows.hours.compaction import superseded_files
from analytics_defs.flows.hours.manifest import write_manifest
from analytics_defs.flows.hours.statistics import compute_hourly_stats
from analytics_defs.flows.retention.freezing import mark_expired
from analytics_defs.flows.retention.sweep import MAX_EVENT_LEAD, ExpirySweep


def expire_parquet(turn: ExpirySweep) -> None:
    for hour, keys in turn.hours(PARQUET, parquet_dir, hour_of(turn.cutoff + MAX_EVENT_LEAD)):
        with turn.skip_on_error(hour):
            _take_parquet_of(hour, list(keys), turn)


def _take_parquet_of(hour: str, keys: Sequence[str], turn: ExpirySweep) -> None:
    """The marker stays: it says what is no longer there."""
    ports = turn.ports
    revision, batches = ports.ledger.latest_revision(hour), ports.ledger.batches_of_hour(hour)
    taken = revision.expired.expired_batches if revision else ()
    if set(batches) - set(taken) and turn.expirable_through(hour, batches):
        if not turn.write:
            turn.record_foreign(
                [key for key in keys if not (batch_id_of_part_key(key) or revision_of_archive_key(key) or key == manifest_key(hour))]
            )
            turn.record_deleted(
                PARQUET,
                hour,
                turn.object_sizes([key for key in keys if batch_id_of_part_key(key) in batches or revision_of_archive_key(key)]),
            )
            return
        revision = mark_expired(hour, partial(_without_rows, turn=turn), turn)
        keys = list(ports.object_store.list_keys(parquet_dir(hour)))
    if revision and revision.expired.expired_batches:
        swept, strangers = superseded_files(revision, keys)
        turn.record_foreign(strangers)
        if swept:
            sizes = turn.object_sizes(swept)
            if turn.write:
                write_manifest(revision, turn.is_complete(hour), ports)
                ports.object_store.delete(swept)
            turn.record_deleted(PARQUET, hour, sizes)


def _without_rows(found: ArchiveRevision, turn: ExpirySweep) -> ArchiveRevision | None:
    """Its statistics are written first: they cannot be counted any more afterwards."""
    if not found.batches:
        return None
    turn.require_expirable(found)
    if not found.expired.expired_batches:
        compute_hourly_stats(found.hour, turn.ports, turn.workspace_factory)
    return with_expired_rows(found, turn.now)
