"""Expiry of Parquet, hour by hour: the next revision of the hour has no files, and superseded files are deleted."""

from __future__ import annotations

from collections.abc import Sequence

from analytics_defs.core.hours.revision import ArchiveRevision, with_expired_rows
from analytics_defs.core.storage.object_keys import PARQUET, batch_id_of_part_key, manifest_key, parquet_dir, revision_of_archive_key
from analytics_defs.core.timestamps import hour_of
from analytics_defs.flows.hours.compaction import superseded_files
from analytics_defs.flows.hours.manifest import write_manifest
from analytics_defs.flows.hours.statistics import compute_hourly_stats
from analytics_defs.flows.retention.expiry_sweep import MAX_EVENT_LEAD, ExpirySweep, mark_expired


def expire_parquet(sweep: ExpirySweep) -> None:
    for hour, keys in sweep.hours(PARQUET, parquet_dir, hour_of(sweep.cutoff + MAX_EVENT_LEAD)):
        with sweep.skip_on_error(hour):
            _expire_hour(hour, list(keys), sweep)


def _expire_hour(hour: str, keys: Sequence[str], sweep: ExpirySweep) -> None:
    """Delete the parts and archives of an hour. The manifest stays: it records what has expired."""
    ports = sweep.ports
    revision, batches = ports.ledger.latest_revision(hour), ports.ledger.batches_of_hour(hour)
    expired = revision.expired.expired_batches if revision else ()
    if set(batches) - set(expired) and sweep.expirable_through(hour, batches):
        if sweep.dry_run:
            _record_dry_run(hour, keys, batches, sweep)
            return
        revision = mark_expired(hour, lambda latest: _without_rows(latest, sweep), sweep)
        keys = list(ports.object_store.list_keys(parquet_dir(hour)))
    if revision and revision.expired.expired_batches:
        superseded, foreign = superseded_files(revision, keys)
        sweep.record_foreign(foreign)
        if superseded:
            sizes = sweep.object_sizes(superseded)
            if not sweep.dry_run:
                write_manifest(revision, sweep.is_hour_complete(hour), ports)
                ports.object_store.delete(superseded)
            sweep.record_deleted(PARQUET, hour, sizes)


def _record_dry_run(hour: str, keys: Sequence[str], batches: Sequence[str], sweep: ExpirySweep) -> None:
    sweep.record_foreign(
        [key for key in keys if not (batch_id_of_part_key(key) or revision_of_archive_key(key) or key == manifest_key(hour))]
    )
    expirable = [key for key in keys if batch_id_of_part_key(key) in batches or revision_of_archive_key(key)]
    sweep.record_deleted(PARQUET, hour, sweep.object_sizes(expirable))


def _without_rows(revision: ArchiveRevision, sweep: ExpirySweep) -> ArchiveRevision | None:
    """Return the next revision, without rows. Write the statistics first: they cannot be computed afterwards."""
    if not revision.batches:
        return None
    sweep.require_expirable(revision)
    if not revision.expired.expired_batches:
        compute_hourly_stats(revision.hour, sweep.ports, sweep.engine_factory)
    return with_expired_rows(revision, sweep.now)
