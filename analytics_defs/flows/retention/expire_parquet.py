"""Parquet: a revision without files, and the compactor's sweep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from analytics_defs.core.hours.revision import Revision, without_rows
from analytics_defs.core.storage.object_keys import PARQUET, batch_of_part, parquet_dir, revision_of_archive, success_key
from analytics_defs.core.timestamps import hour_of
from analytics_defs.flows.hours.compaction import leftovers, mark
from analytics_defs.flows.hours.statistics import hourly_stats
from analytics_defs.flows.retention.freezing import frozen
from analytics_defs.flows.retention.sweep import AHEAD, Turn


def take_parquet(turn: Turn) -> None:
    for hour, keys in turn.hours(PARQUET, parquet_dir, hour_of(turn.limit + AHEAD)):
        with turn.passing_over(hour):
            _take_parquet_of(hour, list(keys), turn)


def _take_parquet_of(hour: str, keys: Sequence[str], turn: Turn) -> None:
    """The marker stays: it says what is no longer there."""
    ports = turn.ports
    revision, batches = ports.ledger.revision(hour), ports.ledger.batches_of_hour(hour)
    taken = revision.taken.batches if revision else ()
    if set(batches) - set(taken) and turn.old(hour, batches):
        if not turn.write:
            turn.leave([key for key in keys if not (batch_of_part(key) or revision_of_archive(key) or key == success_key(hour))])
            turn.went(PARQUET, hour, turn.sizes([key for key in keys if batch_of_part(key) in batches or revision_of_archive(key)]))
            return
        revision = frozen(hour, partial(_without_rows, turn=turn), turn)
        keys = list(ports.archive.keys(parquet_dir(hour)))
    if revision and revision.taken.batches:
        swept, strangers = leftovers(revision, keys)
        turn.leave(strangers)
        if swept:
            sizes = turn.sizes(swept)
            if turn.write:
                mark(revision, turn.has_passed(hour), ports)
                ports.archive.delete(swept)
            turn.went(PARQUET, hour, sizes)


def _without_rows(found: Revision, turn: Turn) -> Revision | None:
    """Its statistics are written first: they cannot be counted any more afterwards."""
    if not found.batches:
        return None
    turn.must_be_old(found)
    if not found.taken.batches:
        hourly_stats(found.hour, turn.ports, turn.bench)
    return without_rows(found, turn.now)
