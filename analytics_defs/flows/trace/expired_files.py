"""Where retention removed the files that would name a source: what the ledger's numbers still tell."""

from __future__ import annotations

from collections.abc import Mapping

from analytics_defs.core.hours.revision import Taken
from analytics_defs.core.ledger import BatchKind, BatchRecord, Tally
from analytics_defs.core.offsets import Source
from analytics_defs.flows.stored.expired_data import letters_taken_of
from analytics_defs.flows.trace.outcome import Fate, Trace
from analytics_defs.ports import Ports


def taken_of(hour: str, ports: Ports) -> Taken:
    revision = ports.ledger.revision(hour)
    return revision.taken if revision else Taken()


def removed(record: BatchRecord, ports: Ports) -> dict[Fate, str]:
    """The outcomes whose files retention removed, with what it removed."""
    gone: dict[Fate, str] = {}
    for hour in record.parts:
        if record.batch.id in (taken := taken_of(hour, ports)).batches:
            gone[Fate.STORED] = f"the rows of hour {hour} are gone: {taken}"
    letters_gone = letters_taken_of(record, ports)
    for fate, key in ((Fate.REPEAT, record.repeats_key), (Fate.DEAD_LETTER, record.dead_letters_key)):
        if letters_gone and key and ports.archive.get(key) is None:
            gone[fate] = f"retention removed {key} on {letters_gone.at:%Y-%m-%dT%H:%MZ}"
    return gone


def as_counted(source: Source, record: BatchRecord, gone: Mapping[Fate, str]) -> Trace:
    """By the ledger's numbers: as what one of the removed files would name it, where they leave one answer."""
    whole = zip(record.batch.ranges, record.tallies, strict=True)
    tally = next((tally for each, tally in whole if record.batch.kind is BatchKind.REDRIVE or each.holds(source)), Tally())
    counts = {Fate.STORED: tally.stored, Fate.REPEAT: tally.repeats, Fate.DEAD_LETTER: tally.dead_letters}
    may_be = [fate for fate in gone if counts[fate]]
    again = next((Fate.REPEAT if each.outcome == "repeats" else Fate.STORED for each in record.redriven if each.source == source), None)
    fate = again or (may_be[0] if len(may_be) == 1 else Fate.TAKEN)
    detail = "; ".join(gone.values())
    if fate is Fate.TAKEN:
        detail += f". Around it are {' and '.join(f'{counts[each]} {each.value}' for each in may_be)}"
    return Trace(source, fate, record.batch.id, detail=detail)
