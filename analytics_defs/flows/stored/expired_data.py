"""What retention took of a batch: asked by who needs its objects and files."""

from __future__ import annotations

from collections.abc import Iterable

from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ExpiredData
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.errors import DataExpired
from analytics_defs.ports import Ports

MAX_HOURS_NAMED = 3


def require_not_expired(batches: Iterable[str], ports: Ports) -> int:
    """How many these are. Raises DataExpired, naming what is gone, where retention took anything of one of these batches."""
    asked, gone, examples, hours = 0, 0, list[str](), dict[str, ExpiredData]()
    for batch_id in batches:
        asked += 1
        record = ports.ledger.batch_record(batch_id)
        if record is not None and (said := _taken_of(record, hours, ports)):
            gone += 1
            examples += [f"batch {batch_id}: {said}"] if len(examples) < MAX_HOURS_NAMED else []
    if gone:
        raise DataExpired(
            f"retention took what {gone} batches of this range had stored. {'; '.join(examples)}. Nothing was changed. What is gone by a "
            "setting is not put back: choose a range without these batches."
        )
    return asked


def _taken_of(record: BatchRecord, hours: dict[str, ExpiredData], ports: Ports) -> str | None:
    """`hours` remembers those that were asked for."""
    for hour in record.hours:
        if hour not in hours:
            revision = ports.ledger.latest_revision(hour)
            hours[hour] = revision.expired if revision else ExpiredData()
        if record.batch.id in hours[hour].expired_batches or hours[hour].has_expired_event_json_of(record.batch.time):
            return f"hour {hour} is frozen, {hours[hour]}"
    if (record.dead_letters_key or record.duplicates_key) and (taken := expired_dead_letters_of(record, ports)):
        return f"its dead letters or repeats went on {taken.expired_at:%Y-%m-%dT%H:%MZ}"
    return None


def expired_dead_letters_of(record: BatchRecord, ports: Ports) -> DeadLetterExpiry | None:
    """What is noted where the batch's files of dead letters and repeats are among what retention took."""
    taken = ports.ledger.dead_letter_expiry()
    return taken if taken and record.batch.time <= taken.expired_through else None
