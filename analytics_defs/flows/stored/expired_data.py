"""What retention took of a batch: asked by who needs its objects and files."""

from __future__ import annotations

from collections.abc import Iterable

from analytics_defs.core.hours.retention import LettersTaken
from analytics_defs.core.hours.revision import Taken
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.errors import Frozen
from analytics_defs.ports import Ports

EXAMPLES = 3


def refuse_taken(batches: Iterable[str], ports: Ports) -> int:
    """How many these are. Raises Frozen, naming what is gone, where retention took anything of one of these batches."""
    asked, gone, examples, hours = 0, 0, list[str](), dict[str, Taken]()
    for batch_id in batches:
        asked += 1
        record = ports.ledger.record(batch_id)
        if record is not None and (said := _taken_of(record, hours, ports)):
            gone += 1
            examples += [f"batch {batch_id}: {said}"] if len(examples) < EXAMPLES else []
    if gone:
        raise Frozen(
            f"retention took what {gone} batches of this range had stored. {'; '.join(examples)}. Nothing was changed. What is gone by a "
            "setting is not put back: choose a range without these batches."
        )
    return asked


def _taken_of(record: BatchRecord, hours: dict[str, Taken], ports: Ports) -> str | None:
    """`hours` remembers those that were asked for."""
    for hour in record.hours:
        if hour not in hours:
            revision = ports.ledger.revision(hour)
            hours[hour] = revision.taken if revision else Taken()
        if record.batch.id in hours[hour].batches or hours[hour].has_objects_of(record.batch.time):
            return f"hour {hour} is frozen, {hours[hour]}"
    if (record.dead_letters_key or record.repeats_key) and (taken := letters_taken_of(record, ports)):
        return f"its dead letters or repeats went on {taken.at:%Y-%m-%dT%H:%MZ}"
    return None


def letters_taken_of(record: BatchRecord, ports: Ports) -> LettersTaken | None:
    """What is noted where the batch's files of dead letters and repeats are among what retention took."""
    taken = ports.ledger.letters_taken()
    return taken if taken and record.batch.time <= taken.through else None
