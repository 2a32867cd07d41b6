"""Rules of a repair: what the stores must hold of a closed batch, decided from its record and from the surviving copies. Values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from analytics_defs.core.events.event import Event
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Range, Source
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage.dead_letter_files import Duplicate, encode_duplicates
from analytics_defs.core.storage.object_keys import require_hour
from analytics_defs.errors import InconsistentState


class StoredKind(StrEnum):
    """Kinds of stored data that a repair compares."""

    ITEM = "recent_events"
    OBJECT = "event_json"
    PART = "parquet_part"
    ARCHIVE = "archive"
    DEAD_LETTERS = "dead_letters"
    DUPLICATES = "duplicates"
    LEDGER_ENTRY = "ledger_entry"
    """An entry of the ledger that leads to the record of the batch."""


class ComparisonResult(StrEnum):
    """The state of one item, object or file, compared with what its batch wrote."""

    MISSING = "missing"
    IDENTICAL = "identical"
    DIFFERENT = "different"
    LEFTOVER = "leftover"
    """A part whose rows are in the archive of its hour. A repair deletes it."""


@dataclass(frozen=True, slots=True)
class HourRange:
    """`[first, end)` in UTC. It selects the batches with events of these hours, and the batches that were cut in these hours."""

    first: str
    end: str


def parse_repair_range(first: str, end: str) -> Range | HourRange:
    """Return the range between two sources of one topic-partition, or between two hours. The end is excluded.

    A source is `topic/partition/offset`, an hour is `YYYY-MM-DDTHH`. Raises ValueError for anything else.
    """
    if "/" in first or "/" in end:
        low, high = Source.parse(first), Source.parse(end)
        if low.topic_partition != high.topic_partition:
            raise ValueError(f"{first} and {end} are in two partitions: repair one after the other, or name two hours")
        if low.offset >= high.offset:
            raise ValueError(f"{first} to {end} holds no offset: the end is not included")
        return Range(low.topic_partition, low.offset, high.offset)
    for hour in (first, end):
        require_hour(hour)
    if first >= end:
        raise ValueError(f"{first} to {end} holds no hour: the end is not included")
    return HourRange(first, end)


@dataclass(frozen=True, slots=True)
class IdOwner:
    """The source that owns an event id in RecentEvents."""

    source: Source
    claimed_first: bool
    """True if the owner's batch is not younger than the batch under repair, and the id was still reserved then.

    The claim of the batch under repair was therefore refused.
    """


@dataclass(slots=True)
class EventOutcomes:
    """The outcomes of the surviving events of a batch."""

    stored: list[Event] = field(default_factory=list)
    duplicates: dict[Source, Source] = field(default_factory=dict)
    """The owner of the id, by the source of the duplicate."""
    undecided: list[Event] = field(default_factory=list)
    """Events whose outcome nothing proves."""
    duplicates_file: bytes | None = None
    """The batch's duplicates file, if it was rebuilt and has the recorded SHA-256."""


def resolve_outcomes(
    events: Sequence[Event],
    stored_sources: Collection[Source],
    owners: Mapping[str, IdOwner],
    record: BatchRecord,
    lines: Sequence[Duplicate] | None,
) -> EventOutcomes:
    """Return the outcomes that are proven. Of several events with one id in a batch, at most the first was stored.

    `events` is sorted by source. `stored_sources` have a row or a JSON object of this batch. `owners` is keyed by event id.
    `lines` is the verified duplicates file, None if it is lost. A lost file is rebuilt from `owners` and counts only if it has the
    recorded SHA-256. Raises InconsistentState if `lines` contradicts the stores.
    """
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(event.id, []).append(event)
    stored_ids = {event_id for event_id, group in groups.items() if _is_stored(group[0], stored_sources, owners)}
    if lines is not None:
        return _outcomes_by_lines(groups, stored_ids, lines, record)
    refused = {event_id: owner.source for event_id, owner in owners.items() if owner.claimed_first and event_id not in stored_ids}
    # The second attempt covers two concurrent batches: the younger one may have claimed the id first.
    owned = {event_id: owner.source for event_id, owner in owners.items() if event_id not in stored_ids}
    for owner_by_id in (refused, owned):
        outcomes = _outcomes_by_owner(groups.values(), owner_by_id)
        outcomes.duplicates_file = _encode(events, outcomes.duplicates)
        if sha256_hex(outcomes.duplicates_file) == record.duplicates_digest:
            return outcomes
    decided = stored_ids | refused.keys()
    outcomes = _outcomes_by_owner([group for event_id, group in groups.items() if event_id in decided], refused)
    outcomes.undecided = [event for event_id, group in groups.items() if event_id not in decided for event in group]
    return outcomes


def _is_stored(event: Event, stored_sources: Collection[Source], owners: Mapping[str, IdOwner]) -> bool:
    owner = owners.get(event.id)
    return event.record.source in stored_sources or (owner is not None and owner.source == event.record.source)


def _outcomes_by_lines(
    groups: Mapping[str, list[Event]], stored_ids: Collection[str], lines: Sequence[Duplicate], record: BatchRecord
) -> EventOutcomes:
    listed, outcomes = {line.source: line for line in lines}, EventOutcomes()
    for event_id, group in groups.items():
        stored = [event for event in group if event.record.source not in listed]
        duplicates = [listed[event.record.source] for event in group if event.record.source in listed]
        allowed = [group[:1]] if event_id in stored_ids else [group[:1], []]
        if stored not in allowed or any(line.event_id != event_id for line in duplicates):
            raise InconsistentState(
                f"batch {record.batch.id}: {record.duplicates_key or 'its record, which counts no duplicates,'} does not agree with the "
                f"stores and Kafka about event {event_id} of {group[0].record.source}: one of them was altered. Nothing of this batch was "
                "changed."
            )
        outcomes.stored += stored
        outcomes.duplicates |= {line.source: line.original_source for line in duplicates}
    return outcomes


def _outcomes_by_owner(groups: Iterable[Sequence[Event]], owner_by_id: Mapping[str, Source]) -> EventOutcomes:
    """Return the outcomes if exactly the ids in `owner_by_id` were refused."""
    outcomes = EventOutcomes()
    for group in groups:
        owner = owner_by_id.get(group[0].id)
        outcomes.stored += [] if owner else group[:1]
        outcomes.duplicates |= {event.record.source: owner or group[0].record.source for event in (group if owner else group[1:])}
    return outcomes


def _encode(events: Sequence[Event], duplicates: Mapping[Source, Source]) -> bytes:
    return encode_duplicates([(event, duplicates[event.record.source]) for event in events if event.record.source in duplicates])


def missing_by_hour(record: BatchRecord, stored: Sequence[Event], is_complete: bool) -> dict[str, tuple[int, int]]:
    """Return the numbers of events found and recorded, for the hours with fewer events than recorded.

    `is_complete`: every record of the batch was read and decided. Raises InconsistentState if an hour has more events of a type than
    recorded, or fewer events than recorded although `is_complete`.
    """
    found: dict[str, Counter[str]] = {}
    for event in stored:
        found.setdefault(event.hour, Counter())[event.type] += 1
    missing = {}
    for hour in sorted({*found, *record.hours}):
        counts, recorded = found.get(hour, Counter[str]()), record.hours.get(hour, {})
        if counts == Counter(recorded):
            continue
        if is_complete or any(count > recorded.get(event_type, 0) for event_type, count in counts.items()):
            raise InconsistentState(
                f"batch {record.batch.id}: hour {hour} has {dict(counts)} by its records, and {dict(recorded)} in the ledger. "
                "Records or validation rules were altered; nothing of this batch was changed."
            )
        missing[hour] = (counts.total(), sum(recorded.values()))
    return missing
