"""Outcome of a record after its files have expired, by the counts that the ledger keeps."""

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


def expired_outcomes(record: BatchRecord, ports: Ports) -> dict[RecordOutcome, str]:
    """Return the outcomes whose files retention deleted, each with a description of what it deleted."""
    expired: dict[RecordOutcome, str] = {}
    for hour in record.parts:
        if record.batch.id in (data := expired_data_of(hour, ports)).expired_batches:
            expired[RecordOutcome.STORED] = f"the rows of hour {hour} have expired: {data}"
    expiry = expired_dead_letters_of(record, ports)
    for outcome, key in ((RecordOutcome.DUPLICATE, record.duplicates_key), (RecordOutcome.DEAD_LETTER, record.dead_letters_key)):
        if expiry and key and ports.object_store.get(key) is None:
            expired[outcome] = f"retention removed {key} on {expiry.expired_at:%Y-%m-%dT%H:%MZ}"
    return expired


def outcome_by_counts(source: Source, record: BatchRecord, expired: Mapping[RecordOutcome, str]) -> Trace:
    """Return the outcome if the ledger's counts leave only one of the expired outcomes, otherwise `EXPIRED`."""
    range_outcome_counts = zip(record.batch.ranges, record.range_outcome_counts, strict=True)
    is_redrive = record.batch.kind is BatchKind.REDRIVE
    outcome_counts = next(
        (outcome_counts for range_, outcome_counts in range_outcome_counts if is_redrive or range_.contains(source)), OutcomeCounts()
    )
    counts = {
        RecordOutcome.STORED: outcome_counts.stored,
        RecordOutcome.DUPLICATE: outcome_counts.duplicates,
        RecordOutcome.DEAD_LETTER: outcome_counts.dead_letters,
    }
    possible = [outcome for outcome in expired if counts[outcome]]
    redriven = next((redriven.outcome for redriven in record.redriven if redriven.source == source), None)
    if redriven:
        outcome = RecordOutcome.DUPLICATE if redriven == "duplicates" else RecordOutcome.STORED
    else:
        outcome = possible[0] if len(possible) == 1 else RecordOutcome.EXPIRED
    detail = "; ".join(expired.values())
    if outcome is RecordOutcome.EXPIRED:
        detail += f". Its range has {' and '.join(f'{counts[candidate]} {candidate.value}' for candidate in possible)}"
    return Trace(source, outcome, record.batch.id, detail=detail)
