"""Dead letters and repeats: by batch, the file that the record of a closed batch names as its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.ledger import Batch, BatchRecord
from analytics_defs.core.storage.object_keys import DEAD_LETTERS, DUPLICATES, batch_id_of_ndjson_key, hour_path
from analytics_defs.core.timestamps import hour_of
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.retention.sweep import DELETE_CHUNK_KEYS, ExpirySweep
from analytics_defs.ports import Ledger


def expire_dead_letters(turn: ExpirySweep) -> None:
    for tree in (DEAD_LETTERS, DUPLICATES):
        for hour, keys in turn.hours(tree, lambda hour, tree=tree: f"{tree}{hour_path(hour)}/", hour_of(turn.cutoff)):  # type: ignore[misc]
            _take_letters_of(tree, hour, keys, turn)


def _take_letters_of(tree: str, hour: str, keys: Iterator[str], turn: ExpirySweep) -> None:
    """Files that a redrive under way may read again stay until it is closed."""
    ports, sizes, is_noted = turn.ports, list[int](), False
    while some := list(islice(keys, DELETE_CHUNK_KEYS)):
        mine = _old_letters(some, turn)
        if mine and turn.write and not is_noted:
            ports.ledger.expire_dead_letters(DeadLetterExpiry(turn.cutoff, turn.now))
            is_noted = True
        needed = (
            {key for batch in ports.ledger.snapshot().require_readable().pending.values() for key in batch.redrive_keys} if mine else set()
        )
        mine = [key for key in mine if key not in needed]
        sizes += turn.object_sizes(mine)
        if turn.write:
            ports.object_store.delete(mine)
    if sizes:
        turn.record_deleted(tree, hour, sizes)


def _old_letters(keys: Sequence[str], turn: ExpirySweep) -> list[str]:
    """Those that the record of an old batch names as its own. A file of a batch that is neither closed nor pending is foreign."""
    mine = list[str]()
    for key, said in zip(keys, turn.ports.task_pool.run_all([partial(_writer, key, turn.ports.ledger) for key in keys]), strict=True):
        if isinstance(said, str):
            turn.report.skipped_hours.append(f"{key} stays: {said}")
        elif said is None:
            turn.record_foreign([key])
        elif isinstance(said, BatchRecord) and said.batch.time <= turn.cutoff:
            mine.append(key)
    return mine


def _writer(key: str, ledger: Ledger) -> BatchRecord | Batch | str | None:
    """The closed batch whose record names this file, or the pending one that will; why nobody can tell, where its item cannot be read."""
    batch_id = batch_id_of_ndjson_key(key)
    if batch_id is None:
        return None
    try:
        pending, record = (
            ledger.pending_batch(batch_id),
            ledger.batch_record(batch_id),
        )  # in this order: one that is closed meanwhile has its record
    except InconsistentState as fault:
        return str(fault)
    return record if record and key in (record.dead_letters_key, record.duplicates_key) else pending
