"""What a closed batch has to have in the stores, decided from its record and from what is still there. Values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from analytics_defs.core.batch import first_of_each_id
from analytics_defs.core.events import Event
from analytics_defs.core.layout import hour_path
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.letters import Repeat
from analytics_defs.core.offsets import Range, Source
from analytics_defs.errors import Contradiction


class Store(StrEnum):
    ITEM = "recent_events"
    OBJECT = "event_json"
    PART = "parquet_part"
    ARCHIVE = "archive"
    DEAD_LETTERS = "dead_letters"
    REPEATS = "repeats"


class State(StrEnum):
    MISSING = "missing"
    IDENTICAL = "identical"
    DIFFERENT = "different"
    LEFTOVER = "leftover"
    """A part whose rows are in the hour's archive: it is removed."""


@dataclass(frozen=True, slots=True)
class Hours:
    """`[first, end)`, UTC: batches with events of these hours, and batches whose own time lies in them."""

    first: str
    end: str


def span(first: str, end: str) -> Range | Hours:
    """From two sources of one topic-partition (`topic/partition/offset`), or two hours; the end is not included.

    Raises ValueError on anything else.
    """
    if "/" in first or "/" in end:
        low, high = Source.parse(first), Source.parse(end)
        if low.topic_partition != high.topic_partition:
            raise ValueError(f"{first} and {end} are of two partitions: replay one after the other, or name two hours")
        if low.offset >= high.offset:
            raise ValueError(f"{first} to {end} holds no offset: the end is not included")
        return Range(low.topic_partition, low.offset, high.offset)
    hour_path(first), hour_path(end)
    if first >= end:
        raise ValueError(f"{first} to {end} holds no hour: the end is not included")
    return Hours(first, end)


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds an id by RecentEvents."""

    source: Source
    created_at: str


@dataclass(slots=True)
class Fates:
    """What became of the events of a batch."""

    stored: list[Event] = field(default_factory=list)
    repeats: dict[Source, Source] = field(default_factory=dict)
    undecided: list[Event] = field(default_factory=list)


def fates(events: Sequence[Event], known: Collection[Source], held: Mapping[str, Held], batch_time: str) -> Fates:
    """By evidence: of one id in one batch the first source was claimed, or refused. `events` sorted by source.

    `known`: sources whose rows or objects are there. A holder that came after the batch says nothing of it.
    """
    found, groups = Fates(), dict[str, list[Event]]()
    for event in events:
        groups.setdefault(event.id, []).append(event)
    for event_id, (first, *later) in groups.items():
        item, source = held.get(event_id), first.record.source
        if source in known or (item and item.source == source):
            found.stored.append(first)
            found.repeats |= {each.record.source: source for each in later}
        elif item and item.created_at <= batch_time:
            found.repeats |= {each.record.source: item.source for each in (first, *later)}
        else:
            found.undecided += [first, *later]
    return found


def settled(found: Fates, record: BatchRecord, lines: Sequence[Repeat] | None) -> Fates:
    """With the file of repeats, or the record's numbers, where evidence alone does not decide. `lines`: None where it cannot be used."""
    if not found.undecided:
        return found
    if lines is not None:
        holders = {line.source: line.held_by for line in lines}
        stored = [each for each in found.undecided if each.record.source not in holders]
        return Fates(found.stored + stored, found.repeats | {each: holders[each] for each in holders}, [])
    first, later = first_of_each_id(found.undecided)
    if (len(found.stored) + len(first), len(found.repeats) + len(later)) == (record.tally.stored, record.tally.repeats):
        return Fates([*found.stored, *first], found.repeats | later, [])
    return found


def usable(lines: Sequence[Repeat], record: BatchRecord) -> bool:
    """Whether this can be the batch's file of repeats: as many lines as recorded, each of a source of its own."""
    sources = {line.source for line in lines}
    mine = set(record.batch.redrives)
    inside = all(
        each in mine or any(each.topic_partition == one.topic_partition and each.offset in one for one in record.batch.ranges)
        for each in sources
    )
    return len(sources) == len(lines) == record.tally.repeats and inside


def short(record: BatchRecord, stored: Sequence[Event], whole: bool) -> dict[str, tuple[int, int]]:
    """Hours with fewer events than the record has: found and recorded.

    Raises Contradiction where there are others than recorded, or where every record is there and they are fewer.
    """
    found: dict[str, Counter[str]] = {}
    for event in stored:
        found.setdefault(event.hour, Counter())[event.type] += 1
    less = {}
    for hour in sorted({*found, *record.hours}):
        has, noted = found.get(hour, Counter[str]()), record.hours.get(hour, {})
        if has == Counter(noted):
            continue
        if whole or any(count > noted.get(each, 0) for each, count in has.items()):
            raise Contradiction(
                f"batch {record.batch.id}: hour {hour} has {dict(has)} by its records, and {dict(noted)} in the ledger. "
                "Somebody altered records or rules; nothing of this batch was changed."
            )
        less[hour] = (has.total(), sum(noted.values()))
    return less
