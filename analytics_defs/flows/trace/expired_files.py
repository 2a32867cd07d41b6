"""Where retention removed the files that would name a source: what the ledger's numbers still tell."""

from __future__ import annotations

from collections.abc import Mapping

from analytics_defs.core.hours.revision import ExpiredData
from analytics_defs.core.ledger import BatchKind, BatchRecord, OutcomeCounts
from analytics_defs.core.offsets import Source
from analytics_defs.flows.stored.expired_data import expired_dead_letters_of
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.ports import Ports


def expired_data_of(hour: str, ports: Ports) -> ExpiredData:
    revision = ports.ledger.latest_revision(hour)
    return revision.expired if revision else ExpiredData()


def outcome_after_expiry(record: BatchRecord, ports: Ports) -> dict[RecordOutcome, str]:
    """The outcomes whose files retention removed, with what it removed."""
    gone: dict[RecordOutcome, str] = {}
    for hour in record.parts:
        if record.batch.id in (taken := expired_data_of(hour, ports)).expired_batches:
            gone[RecordOutcome.STORED] = f"the rows of hour {hour} are gone: {taken}"
    letters_gone = expired_dead_letters_of(record, ports)
    for fate, key in ((RecordOutcome.DUPLICATE, record.duplicates_key), (RecordOutcome.DEAD_LETTER, record.dead_letters_key)):
        if letters_gone and key and ports.object_store.get(key) is None:
            gone[fate] = f"retention removed {key} on {letters_gone.expired_at:%Y-%m-%dT%H:%MZ}"
    return gone


def counted_outcome(source: Source, record: BatchRecord, gone: Mapping[RecordOutcome, str]) -> Trace:
    """By the ledger's numbers: as what one of the removed files would name it, where they leave one answer."""
    whole = zip(record.batch.ranges, record.tallies, strict=True)
    tally = next((tally for each, tally in whole if record.batch.kind is BatchKind.REDRIVE or each.holds(source)), OutcomeCounts())
    counts = {RecordOutcome.STORED: tally.stored, RecordOutcome.DUPLICATE: tally.duplicates, RecordOutcome.DEAD_LETTER: tally.dead_letters}
    may_be = [fate for fate in gone if counts[fate]]
    again = next(
        (
            RecordOutcome.DUPLICATE if each.outcome == "duplicates" else RecordOutcome.STORED
            for each in record.redriven
            if each.source == source
        ),
        None,
    )
    fate = again or (may_be[0] if len(may_be) == 1 else RecordOutcome.EXPIRED)
    detail = "; ".join(gone.values())
    if fate is RecordOutcome.EXPIRED:
        detail += f". Around it are {' and '.join(f'{counts[each]} {each.value}' for each in may_be)}"
    return Trace(source, fate, record.batch.id, detail=detail)
