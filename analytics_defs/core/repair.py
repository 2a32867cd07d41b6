"""What a closed batch has to have in the stores, decided from its record and from what is still there. Values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from analytics_defs.core.events.event import Event
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Range, Source
from analytics_defs.core.storage.dead_letter_files import Duplicate
from analytics_defs.core.storage.object_keys import hour_path
from analytics_defs.errors import InconsistentState


class StoreKind(StrEnum):
    ITEM = "recent_events"
    OBJECT = "event_json"
    PART = "parquet_part"
    ARCHIVE = "archive"
    DEAD_LETTERS = "dead_letters"
    DUPLICATES = "duplicates"


class ComparisonResult(StrEnum):
    MISSING = "missing"
    IDENTICAL = "identical"
    DIFFERENT = "different"
    LEFTOVER = "leftover"
    """A part whose rows are in the hour's archive: it is removed."""


@dataclass(frozen=True, slots=True)
class HourRange:
    """`[first, end)`, UTC: batches with events of these hours, and batches whose own time lies in them."""

    first: str
    end: str


def parse_replay_range(first: str, end: str) -> Range | HourRange:
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
    return HourRange(first, end)


@dataclass(frozen=True, slots=True)
class IdOwner:
    """Who holds an id by RecentEvents."""

    source: Source
    claimed_first: bool
    """It came no later than the batch, and was still remembered then: the batch's claim was refused by it."""


@dataclass(slots=True)
class EventOutcomes:
    """What became of the events of a batch."""

    stored: list[Event] = field(default_factory=list)
    duplicates: dict[Source, Source | None] = field(default_factory=dict)
    """With who held the id. None: that is not known any more."""
    undecided: list[Event] = field(default_factory=list)
    lines_agree: bool = False
    """Whether the file of repeats can be the one that the batch wrote."""


def resolve_outcomes(
    events: Sequence[Event], known: Collection[Source], held: Mapping[str, IdOwner], record: BatchRecord, lines: Sequence[Duplicate] | None
) -> EventOutcomes:
    """Of one id in one batch the first source was claimed, or refused. `events` sorted by source; `lines`: None where they cannot be used.

    `known`: sources whose rows or objects are there. What neither they nor RecentEvents prove, the file of repeats decides; without it the
    record's numbers, where they leave one answer only.
    """
    found, open_ = EventOutcomes(), list[list[Event]]()
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(event.id, []).append(event)
    for event_id, group in groups.items():
        item, source = held.get(event_id), group[0].record.source
        if source in known or (item and item.source == source):
            found.stored.append(group[0])
            found.duplicates |= {each.record.source: source for each in group[1:]}
        else:
            open_.append(group)
    holders = {each: item.source for each, item in held.items() if item.claimed_first}
    if lines is not None and (decided := _by_lines(found, open_, holders, lines)):
        return decided
    return _by_numbers(found, open_, holders, {each: item.source for each, item in held.items()}, record)


def _by_lines(
    found: EventOutcomes, open_: Sequence[list[Event]], holders: Mapping[str, Source], lines: Sequence[Duplicate]
) -> EventOutcomes | None:
    """None where the lines contradict what is proven: then they are not those that the batch wrote."""
    named = {line.source: line for line in lines}
    if any(each.record.source in named for each in found.stored) or not named.keys() >= found.duplicates.keys():
        return None
    became = EventOutcomes(list(found.stored), dict(found.duplicates), lines_agree=True)
    for group in open_:
        free = [each for each in group if each.record.source not in named]
        if free not in ([], group[:1]) or any(named[each.record.source].event_id != each.id for each in group[len(free) :]):
            return None
        became.stored += free
        for each in group[len(free) :]:
            source = each.record.source
            became.duplicates[source] = free[0].record.source if free else holders.get(each.id, named[source].original_source)
    return became


def _by_numbers(
    found: EventOutcomes, open_: Sequence[list[Event]], holders: Mapping[str, Source], later: Mapping[str, Source], record: BatchRecord
) -> EventOutcomes:
    """`later`: who holds an id, also by a batch that was cut later: of two at once it may have claimed first."""
    events = len(found.stored) + len(found.duplicates) + sum(map(len, open_))
    is_all_there = events == record.tally.stored + record.tally.duplicates
    refused = [group for group in open_ if group[0].id in holders]
    others = [group for group in open_ if group[0].id not in holders]
    missing = record.tally.stored - len(found.stored)
    if missing == 0:
        return _with(found, [], open_, holders)
    if is_all_there and missing == len(others):
        return _with(found, others, refused, holders)
    if is_all_there and missing == sum(group[0].id not in later for group in open_):
        free = [group for group in open_ if group[0].id not in later]
        return _with(found, free, [group for group in open_ if group[0].id in later], later)
    if is_all_there and missing == len(open_):
        return _with(found, open_, [], holders)
    became = _with(found, [], refused, holders)
    became.undecided = [each for group in others for each in group]
    return became


def _with(
    found: EventOutcomes, stored: Sequence[list[Event]], refused: Sequence[list[Event]], holders: Mapping[str, Source]
) -> EventOutcomes:
    within = {each.record.source: group[0].record.source for group in stored for each in group[1:]}
    elsewhere = {each.record.source: holders.get(each.id) for group in refused for each in group}
    return EventOutcomes([*found.stored, *(group[0] for group in stored)], found.duplicates | within | elsewhere)


def matches_batch(lines: Sequence[Duplicate], record: BatchRecord) -> bool:
    """Whether this can be the batch's file of repeats: as many lines as recorded, each of a source of its own."""
    sources = {line.source for line in lines}
    mine = set(record.batch.redriven_sources)
    inside = all(each in mine or any(one.holds(each) for one in record.batch.ranges) for each in sources)
    return len(sources) == len(lines) == record.tally.duplicates and inside


def missing_by_hour(record: BatchRecord, stored: Sequence[Event], whole: bool) -> dict[str, tuple[int, int]]:
    """Hours with fewer events than the record has: found and recorded.

    Raises InconsistentState where there are others than recorded, or where every record is there and they are fewer.
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
            raise InconsistentState(
                f"batch {record.batch.id}: hour {hour} has {dict(has)} by its records, and {dict(noted)} in the ledger. "
                "Somebody altered records or rules; nothing of this batch was changed."
            )
        less[hour] = (has.total(), sum(noted.values()))
    return less
