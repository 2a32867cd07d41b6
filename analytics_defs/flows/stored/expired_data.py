"""Data of a batch that retention has removed. Flows that need the batch's objects and files check this first."""

from __future__ import annotations

from collections.abc import Iterable

from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ExpiredData
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.errors import DataExpired
from analytics_defs.ports import Ports

MAX_HOURS_NAMED = 3


def require_not_expired(batches: Iterable[str], ports: Ports) -> int:
    """Return the number of batches. Raise DataExpired with examples if retention has removed data of any of them."""
    checked, affected, examples, expired_by_hour = 0, 0, list[str](), dict[str, ExpiredData]()
    for batch_id in batches:
        checked += 1
        record = ports.ledger.batch_record(batch_id)
        if record is not None and (reason := _expiry_reason(record, expired_by_hour, ports)):
            affected += 1
            examples += [f"batch {batch_id}: {reason}"] if len(examples) < MAX_HOURS_NAMED else []
    if affected:
        raise DataExpired(
            f"retention has removed data of {affected} batches of this range. {'; '.join(examples)}. Nothing was changed. "
            "Data that a retention setting removed is not restored: choose a range without these batches."
        )
    return checked


def _expiry_reason(record: BatchRecord, expired_by_hour: dict[str, ExpiredData], ports: Ports) -> str | None:
    """Return what retention removed of the batch. `expired_by_hour` caches the ledger's answers."""
    for hour in record.hours:
        if hour not in expired_by_hour:
            revision = ports.ledger.latest_revision(hour)
            expired_by_hour[hour] = revision.expired if revision else ExpiredData()
        expired = expired_by_hour[hour]
        if record.batch.id in expired.expired_batches or expired.has_expired_event_json_of(record.batch.time):
            return f"hour {hour} has expired data, {expired}"
    if (record.dead_letters_key or record.duplicates_key) and (expiry := expired_dead_letters_of(record, ports)):
        return f"its dead letters or duplicates expired on {expiry.expired_at:%Y-%m-%dT%H:%MZ}"
    return None


def expired_dead_letters_of(record: BatchRecord, ports: Ports) -> DeadLetterExpiry | None:
    """Return the recorded expiry if it covers the batch's files of dead letters and duplicates."""
    expiry = ports.ledger.dead_letter_expiry()
    return expiry if expiry and record.batch.time <= expiry.expired_through else None
