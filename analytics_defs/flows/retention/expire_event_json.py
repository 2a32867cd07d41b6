"""Expiry of JSON objects, hour by hour. The metadata of an object decide whether it is deleted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice

from analytics_defs.core.hours.retention import newest_batch_time
from analytics_defs.core.hours.revision import ArchiveRevision, with_expired_event_json
from analytics_defs.core.storage.object_keys import EVENTS, batch_time, candidate_event_keys, event_json_dir
from analytics_defs.core.timestamps import hour_of
from analytics_defs.flows.hours.manifest import write_manifest
from analytics_defs.flows.retention.expiry_sweep import DELETE_CHUNK_KEYS, MAX_EVENT_LEAD, ExpirySweep, mark_expired


def expire_event_json(sweep: ExpirySweep) -> None:
    for hour, keys in sweep.hours(EVENTS, event_json_dir, hour_of(sweep.cutoff + MAX_EVENT_LEAD)):
        with sweep.skip_on_error(hour):
            _expire_hour(hour, keys, sweep)


def _expire_hour(hour: str, keys: Iterator[str], sweep: ExpirySweep) -> None:
    ports = sweep.ports
    revision, batches = ports.ledger.latest_revision(hour), ports.ledger.batches_of_hour(hour)
    through = revision.expired.event_json_expired_through if revision else None
    newest = newest_batch_time(batches)
    if through is None or (newest and through < newest):
        through = sweep.expirable_through(hour, batches) or through
    if through is None:
        return
    old = {batch for batch in batches if batch_time(batch) <= min(through, sweep.cutoff)}
    is_marked, sizes = False, list[int]()
    try:
        while chunk := list(islice(keys, DELETE_CHUNK_KEYS)):
            expired = _old_objects(hour, chunk, old, sweep)
            if expired and not sweep.dry_run:
                if not is_marked:
                    _mark_event_json_expired(hour, through, sweep)
                    is_marked = True
                ports.object_store.delete(list(expired))
            sizes += expired.values()
    finally:
        if sizes:
            sweep.record_deleted(EVENTS, hour, sizes)


def _old_objects(hour: str, keys: Sequence[str], old: set[str], sweep: ExpirySweep) -> dict[str, int]:
    """Return the sizes of the objects that these batches wrote: key and metadata have to fit. Other keys are foreign."""
    store, sizes = sweep.ports.object_store, dict[str, int]()
    for key, info in zip(keys, sweep.ports.task_pool.run_all([partial(store.head, key) for key in keys]), strict=True):
        if info and key not in candidate_event_keys(hour, info.metadata):
            sweep.record_foreign([key])
        elif info and info.metadata.get("batch") in old:
            sizes[key] = info.bytes
    return sizes


def _mark_event_json_expired(hour: str, through: datetime, sweep: ExpirySweep) -> None:
    def change(revision: ArchiveRevision) -> ArchiveRevision | None:
        expired_through = revision.expired.event_json_expired_through
        if expired_through is not None and expired_through >= through:
            return None
        sweep.require_expirable(revision)
        return with_expired_event_json(revision, through, sweep.now)

    write_manifest(mark_expired(hour, change, sweep), sweep.is_hour_complete(hour), sweep.ports)
