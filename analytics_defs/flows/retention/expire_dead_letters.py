"""Dead letters and repeats: by batch, the file that the record of a closed batch names as its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from analytics_defs.core.hours.retention import LettersTaken
from analytics_defs.core.ledger import Batch, BatchRecord
from analytics_defs.core.storage.object_keys import DEAD_LETTERS, REPEATS, batch_of_dead_letters, hour_path
from analytics_defs.core.timestamps import hour_of
from analytics_defs.errors import Contradiction
from analytics_defs.flows.retention.sweep import CHUNK, Turn
from analytics_defs.ports import Ledger


def take_letters(turn: Turn) -> None:
    for tree in (DEAD_LETTERS, REPEATS):
        for hour, keys in turn.hours(tree, lambda hour, tree=tree: f"{tree}{hour_path(hour)}/", hour_of(turn.limit)):  # type: ignore[misc]
            _take_letters_of(tree, hour, keys, turn)


def _take_letters_of(tree: str, hour: str, keys: Iterator[str], turn: Turn) -> None:
    """Files that a redrive under way may read again stay until it is closed."""
    ports, sizes, is_noted = turn.ports, list[int](), False
    while some := list(islice(keys, CHUNK)):
        mine = _old_letters(some, turn)
        if mine and turn.write and not is_noted:
            ports.ledger.take_letters(LettersTaken(turn.limit, turn.now))
            is_noted = True
        needed = {key for batch in ports.ledger.snapshot().readable().pending.values() for key in batch.redrive_keys} if mine else set()
        mine = [key for key in mine if key not in needed]
        sizes += turn.sizes(mine)
        if turn.write:
            ports.archive.delete(mine)
    if sizes:
        turn.went(tree, hour, sizes)


def _old_letters(keys: Sequence[str], turn: Turn) -> list[str]:
    """Those that the record of an old batch names as its own. A file of a batch that is neither closed nor pending is foreign."""
    mine = list[str]()
    for key, said in zip(keys, turn.ports.workers.run([partial(_writer, key, turn.ports.ledger) for key in keys]), strict=True):
        if isinstance(said, str):
            turn.report.waiting.append(f"{key} stays: {said}")
        elif said is None:
            turn.leave([key])
        elif isinstance(said, BatchRecord) and said.batch.time <= turn.limit:
            mine.append(key)
    return mine


def _writer(key: str, ledger: Ledger) -> BatchRecord | Batch | str | None:
    """The closed batch whose record names this file, or the pending one that will; why nobody can tell, where its item cannot be read."""
    batch_id = batch_of_dead_letters(key)
    if batch_id is None:
        return None
    try:
        pending, record = ledger.pending(batch_id), ledger.record(batch_id)  # in this order: one that is closed meanwhile has its record
    except Contradiction as fault:
        return str(fault)
    return record if record and key in (record.dead_letters_key, record.repeats_key) else pending
