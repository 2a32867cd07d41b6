"""Dead letters and repeats: by batch, the file that the record of a closed batch names as its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from analytics_defs.core.layout import DEAD_LETTERS, REPEATS, batch_of_dead_letters, hour_path
from analytics_defs.core.retention import LettersTaken
from analytics_defs.core.timestamps import hour_of
from analytics_defs.flows.retention.turn import CHUNK, Turn


def take_letters(turn: Turn) -> None:
    for tree in (DEAD_LETTERS, REPEATS):
        for hour, keys in turn.hours(tree, lambda hour, tree=tree: f"{tree}{hour_path(hour)}/", hour_of(turn.limit)):  # type: ignore[misc]
            _take_letters_of(tree, hour, keys, turn)


def _take_letters_of(tree: str, hour: str, keys: Iterator[str], turn: Turn) -> None:
    """Files that a redrive under way may read again stay until it is closed."""
    ports, sizes, is_noted = turn.ports, list[int](), False
    while some := list(islice(keys, CHUNK)):
        mine = [key for key, goes in zip(some, ports.workers.run([partial(_goes, key, turn) for key in some]), strict=True) if goes]
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


def _goes(key: str, turn: Turn) -> bool:
    """Only the file that the record of a closed batch names as its own. Of a batch that is neither closed nor pending it is foreign."""
    batch_id, ledger = batch_of_dead_letters(key), turn.ports.ledger
    is_open = batch_id is not None and ledger.pending(batch_id) is not None
    record = ledger.record(batch_id) if batch_id else None
    if record is None or key not in (record.dead_letters_key, record.repeats_key):
        if not is_open:
            turn.leave([key])
        return False
    return record.batch.time <= turn.limit
