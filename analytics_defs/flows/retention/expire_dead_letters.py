"""Expiry of dead letters and duplicates, batch by batch: the files that the records of closed batches name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.ledger import Batch, BatchRecord
from analytics_defs.core.storage.object_keys import DEAD_LETTERS, DUPLICATES, batch_id_of_ndjson_key, hour_path
from analytics_defs.core.timestamps import hour_of
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.retention.expiry_sweep import DELETE_CHUNK_KEYS, ExpirySweep
from analytics_defs.ports import Ledger


def expire_dead_letters(sweep: ExpirySweep) -> None:
    for tree in (DEAD_LETTERS, DUPLICATES):
        for hour, keys in sweep.hours(tree, partial(_folder, tree), hour_of(sweep.cutoff)):
            _expire_hour(tree, hour, keys, sweep)


def _folder(tree: str, hour: str) -> str:
    return f"{tree}{hour_path(hour)}/"


def _expire_hour(tree: str, hour: str, keys: Iterator[str], sweep: ExpirySweep) -> None:
    """Delete the expired files of an hour. Files that a pending redrive may read again stay until it is closed."""
    ports, sizes, is_recorded = sweep.ports, list[int](), False
    while chunk := list(islice(keys, DELETE_CHUNK_KEYS)):
        expired = _expired_files(chunk, sweep)
        if expired and not sweep.dry_run and not is_recorded:
            ports.ledger.record_dead_letter_expiry(DeadLetterExpiry(sweep.cutoff, sweep.now))
            is_recorded = True
        needed = set[str]()
        if expired:
            pending = ports.ledger.snapshot().require_readable().pending.values()
            needed = {key for batch in pending for key in batch.redrive_keys}
        expired = [key for key in expired if key not in needed]
        sizes += sweep.object_sizes(expired)
        if not sweep.dry_run:
            ports.object_store.delete(expired)
    if sizes:
        sweep.record_deleted(tree, hour, sizes)


def _expired_files(keys: Sequence[str], sweep: ExpirySweep) -> list[str]:
    """Return the files that the record of an old batch names. A file of a batch that is neither closed nor pending is foreign."""
    expired = list[str]()
    writers = sweep.ports.task_pool.run_all([partial(_writer, key, sweep.ports.ledger) for key in keys])
    for key, writer in zip(keys, writers, strict=True):
        if isinstance(writer, InconsistentState):
            sweep.report.skipped_hours.append(f"{key} stays: {writer}")
        elif writer is None:
            sweep.record_foreign([key])
        elif isinstance(writer, BatchRecord) and writer.batch.time <= sweep.cutoff:
            expired.append(key)
    return expired


def _writer(key: str, ledger: Ledger) -> BatchRecord | Batch | InconsistentState | None:
    """Return the closed batch whose record names this file, the pending batch that may name it, or the error if it cannot be read."""
    batch_id = batch_id_of_ndjson_key(key)
    if batch_id is None:
        return None
    try:
        pending = ledger.pending_batch(batch_id)  # before the record: a batch that closes in between then has its record
        record = ledger.batch_record(batch_id)
    except InconsistentState as error:
        return error
    return record if record and key in (record.dead_letters_key, record.duplicates_key) else pending
