"""The steps of a batch, each safe to repeat by anyone at any later time. `flows.ingest` puts them in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from analytics_defs.core import letters, staging, tables
from analytics_defs.core.batch import Staged, first_of_each_id, holes, one, strangers
from analytics_defs.core.counting import Stored
from analytics_defs.core.events import Event, Verdict, judge
from analytics_defs.core.layout import (
    batch_of_dead_letters,
    dead_letters_key,
    part_key,
    repeats_key,
    staging_key,
)
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord, Snapshot
from analytics_defs.core.ledger_writes import MAX_ACTIONS, most_actions
from analytics_defs.core.offsets import Range, Record, Source
from analytics_defs.core.plan import OnDataLoss, Plan, opening
from analytics_defs.errors import Contradiction, DataLoss, Missing, Stopped, TakenOver, TopicRecreated, Unavailable
from analytics_defs.flows.deferred import raise_first
from analytics_defs.flows.event_objects import put_event_objects
from analytics_defs.flows.observe import observe
from analytics_defs.flows.taken import letters_taken_of
from analytics_defs.flows.watch import Stopwatch
from analytics_defs.ports import Blob, Ports, Reading

if TYPE_CHECKING:
    from analytics_defs.flows.ingest import Conduct

CHUNK = 100
"""Events in one claim: what a DynamoDB transaction holds."""


# Before the take: nothing is written, except where a topic's account begins.


def pending_of(plan: Plan, snapshot: Snapshot) -> list[Batch]:
    """Batches to finish before anything new is read: those the plan names, and those that hold one of its partitions."""
    heads = [snapshot.heads.get(each.topic_partition) for each in plan.ranges]
    ids = {*plan.finish, *(head.pending for head in heads if head and head.pending)}
    return [snapshot.pending[each] for each in sorted(ids & snapshot.pending.keys())]


def open_topics(plan: Plan, ports: Ports) -> None:
    """Fix where the account of each topic begins, once for all its partitions, before the first of them is taken."""
    known = ports.ledger.snapshot().topics
    unknown = sorted({each.topic_partition.topic for each in plan.ranges} - known.keys())
    for name, seen in observe(unknown, ports).items() if unknown else ():
        if seen is None:
            raise Missing(
                f"topic {name} does not exist any more; it did when the plan was made. Create it, or take it out of KAFKA_TOPICS."
            )
        ports.ledger.open_topic(opening(seen))


def exact_ranges(ranges: Sequence[Range], reading: Reading) -> tuple[Range, ...]:
    """What was read of the ranges, without the empty ones. Raises Unavailable where that is nothing and no fault says why."""
    read = (Range(each.topic_partition, each.start, reading.ends[each.topic_partition]) for each in ranges)
    exact = tuple(sorted(each for each in read if each))
    if ranges and not exact and not reading.faults:
        raise Unavailable(
            f"Kafka gave nothing of {', '.join(map(str, ranges))}: neither records nor the end of a partition. The lane tries again."
        )
    return exact


def holes_of(ranges: Sequence[Range], verdicts: Sequence[Verdict], lost: Sequence[Range]) -> tuple[Range, ...]:
    return holes(ranges, [*(one(each.record.source) for each in verdicts), *lost])


def same_topics(ranges: Sequence[Range], snapshot: Snapshot, ports: Ports) -> None:
    """Asked after reading: then what was read came from the topics the ledger knows. Raises TopicRecreated."""
    now = ports.log.topics(sorted({each.topic_partition.topic for each in ranges}))
    for each in ranges:
        name = each.topic_partition.topic
        known, found = snapshot.topics[name].topic_id, now[name].topic_id if name in now else "none"
        if known and found and known != found:
            raise TopicRecreated(
                f"{each.topic_partition}: topic {name} was deleted and created again (id {found}, the ledger knows {known}). "
                f"Run `analytics accept-topic {name}` to read the new one from its start; what was stored stays. "
                "Where it was not meant, KAFKA_BROKERS may lead to another cluster."
            )


def refuse_loss(reading: Reading, conduct: Conduct) -> None:
    """Retention may pass the next offset after the plan was made. Raises DataLoss where a person wants to decide about that."""
    if reading.lost and conduct.on_data_loss is OnDataLoss.STOP:
        raise DataLoss(
            f"retention removed {', '.join(map(str, reading.lost))} before it was read, and ON_DATA_LOSS=stop. "
            "Set ON_DATA_LOSS=record to record it as lost and go on."
        )


# Stage: from here on the batch is a function of its staging file.


def stage(batch: Batch, fresh: Staged | None, ports: Ports, conduct: Conduct, watch: Stopwatch) -> Staged | None:
    """The staging file that decides what the batch is: the first one written. None: the batch is no longer pending.

    The mark comes after the file and before any claim: a file written by a late riser is never believed after the close, and a file
    that is gone although it was marked is noticed. Nothing is marked that cannot be read, or is not of this batch: the mark would refuse
    the whole file for ever.
    """
    key = staging_key(batch.id)
    with watch("stage"):
        data = None if fresh else ports.archive.get(key)
        if data is None and fresh is None:
            now = ports.ledger.pending(batch.id)
            data = _marked_file(now, ports) if now else None
            if now is None or (now.staged and data is None):
                return None
        if data is None:
            fresh = fresh or read_again(batch, ports, conduct)
            must_fit(batch, fresh)
            data = ports.archive.put_if_absent(_blob(key, ours := staging.encode(fresh), "application/vnd.apache.arrow.stream"))
            fresh = fresh if data == ours else None
        staged = fresh or _believed(batch, staging.decode(data, key), key)
        if not ports.ledger.mark_staged(batch.id, staging.digest(data)):
            ports.archive.delete([key])
            return None
        return staged


def _believed(batch: Batch, staged: Staged, key: str) -> Staged:
    """Raises Contradiction where the file holds anything that is not of the batch."""
    if alien := strangers(staged, batch):
        raise Contradiction(
            f"{key} is not the staging file of batch {batch.id} of {', '.join(map(str, batch.ranges))}: it holds {', '.join(alien[:3])}. "
            "The batch stays pending; restore the object."
        )
    return staged


def _marked_file(now: Batch, ports: Ports) -> bytes | None:
    """The staging file, looked for after the mark was seen: it may have come since. None: not marked, or closed meanwhile."""
    if now.staged is None:
        return None
    data = ports.archive.get(staging_key(now.id))
    if data is None and ports.ledger.pending(now.id) is not None:
        raise Contradiction(
            f"batch {now.id} of {', '.join(map(str, now.ranges))}: its staging file {staging_key(now.id)} (SHA-256 {now.staged}) is gone, "
            "and events of it may have been claimed. Restore the object from the bucket's backup or versions; the partitions wait."
        )
    return data


def must_fit(batch: Batch, staged: Staged) -> None:
    """Raises Stopped where the ledger could not close the batch, before anything of it is staged or claimed."""
    hours = len({event.hour for event in staged.events})
    if (actions := most_actions(batch, hours)) > MAX_ACTIONS:
        raise Stopped(
            f"batch {batch.id} of {', '.join(map(str, batch.ranges))}: its events lie in {hours} hours, and closing it may take {actions} "
            f"actions of the {MAX_ACTIONS} that one ledger transaction holds. Nothing of it was claimed; its partitions wait. "
            f"Set MAX_EVENT_BYTES and MAX_FUTURE_SKEW to what they were at {batch.time.isoformat()}, or run the version of then, "
            "until the batch is closed."
        )


def read_again(batch: Batch, ports: Ports, conduct: Conduct) -> Staged:
    """The same ranges once more, whole, because nothing of the batch was claimed yet. Offsets of a topic that is no more are lost.

    By the rules under which it was taken: other rules may make events of its rejections, in more hours than one transaction closes.
    """
    if batch.kind is BatchKind.REDRIVE:
        again = () if _are_letters_taken(batch, ports) else _judged(letters_of(batch, ports), batch, conduct)
        return Staged(tuple(each for each in again if isinstance(each, Event)), event_objects=conduct.event_objects)
    snapshot = ports.ledger.snapshot()
    for why in filter(None, (snapshot.why_unreadable(each.topic_partition) for each in batch.ranges)):
        raise Contradiction(why)
    gone = tuple(each for each in batch.ranges if each.topic_partition.generation < snapshot.topics[each.topic_partition.topic].generation)
    there = [each for each in batch.ranges if each not in gone]
    same_topics(there, snapshot, ports)
    reading = ports.log.read(there, lambda _: True)
    raise_first(list(reading.faults.values()))
    if exact_ranges(there, reading) != tuple(there):
        raise Unavailable(
            f"batch {batch.id}: Kafka gave only {', '.join(map(str, exact_ranges(there, reading)))} of {', '.join(map(str, there))}"
        )
    refuse_loss(reading, conduct)
    lost = tuple(sorted((*gone, *reading.lost)))
    verdicts = _judged(reading.records, batch, conduct)
    gaps = ports.log.explain(holes_of(there, verdicts, lost))
    same_topics(there, snapshot, ports)
    return Staged(verdicts, gaps, lost, conduct.event_objects)


def _are_letters_taken(batch: Batch, ports: Ports) -> bool:
    """Retention removed the redrive's dead letters before it was taken, and nothing of it was claimed: it closes with none of them."""
    records = [record for key in batch.redrive_keys if (record := writer_of(key, ports))]
    return any(letters_taken_of(each, ports) and ports.archive.get(each.dead_letters_key or "") is None for each in records)


def _judged(records: Sequence[Record], batch: Batch, conduct: Conduct) -> tuple[Verdict, ...]:
    rules = batch.rules or conduct.rules
    return tuple(judge(record, rules, batch.time) for record in sorted(records, key=lambda record: record.source))


def letters_of(batch: Batch, ports: Ports) -> list[Record]:
    """The records a redrive puts through, from the dead-letter files. Raises Contradiction where one is missing, or a file was altered."""
    found: dict[Source, Record] = {}
    for key in batch.redrive_keys:
        record = writer_of(key, ports)
        if record is None:
            raise Contradiction(f"redrive {batch.id}: {key} is no file of a closed batch, expected the one that a batch record names.")
        found |= {each.record.source: each.record for each in letters.kept_letters(record, ports.archive.get(key))}
    missing = [str(source) for source in batch.redrives if source not in found]
    if missing:
        raise Contradiction(f"redrive {batch.id}: {', '.join(missing)} are not in {', '.join(batch.redrive_keys)}. Restore the objects.")
    return [found[source] for source in batch.redrives]


def writer_of(key: str, ports: Ports) -> BatchRecord | None:
    """The record of the closed batch that names this dead-letter file as its own. None: a copy, a stranger, or its batch is not closed."""
    batch_id = batch_of_dead_letters(key)
    record = ports.ledger.record(batch_id) if batch_id else None
    return record if record and record.dead_letters_key == key else None


# Claim and archive: chunk by chunk, all stores at once.


def claim_and_archive(batch: Batch, staged: Staged, ports: Ports, watch: Stopwatch) -> Stored:
    """Everything the batch writes outside the ledger. Returns when every store has confirmed every event; raises when one has not."""
    first, later = first_of_each_id(staged.events)
    chunks = [first[start : start + CHUNK] for start in range(0, len(first), CHUNK)]
    answers = ports.workers.run([partial(_claim_chunk, batch, staged, chunk, ports, watch) for chunk in chunks])
    refused = {source: holder for answer in answers for source, holder in answer.items()}
    repeats = refused | {source: refused.get(holder, holder) for source, holder in later.items()}
    kept = [event for event in first if event.record.source not in refused]
    files = [*_parts(batch, kept), *_dead_letters(batch, staged), *_repeats(batch, staged, repeats)]
    written = ports.workers.run([partial(_archive, make, ports, watch) for _, make in files])
    digests = {key: digest for (key, _), digest in zip(files, written, strict=True)}
    return Stored(
        repeats,
        {hour: part_key(hour, batch.id) for hour in sorted({event.hour for event in kept})},
        next((key for key in digests if key == dead_letters_key(batch.id)), None),
        next((key for key in digests if key == repeats_key(batch.id)), None),
        digests.get(dead_letters_key(batch.id)),
    )


def _claim_chunk(batch: Batch, staged: Staged, chunk: Sequence[Event], ports: Ports, watch: Stopwatch) -> Mapping[Source, Source]:
    """Claim, then write the objects of what was claimed: no object without its claim."""
    with watch("claim"):
        claims = ports.recent.claim(chunk, batch.time)
    with watch("event objects"):
        claimed = [event for event in chunk if event.record.source not in claims.refused]
        put_event_objects(batch, [event for event in claimed if staged.event_objects or event.record.source in claims.pointers], ports)
    return claims.refused


File = tuple[str, Callable[[], Blob]]


def _parts(batch: Batch, kept: Sequence[Event]) -> list[File]:
    hours: dict[str, list[Event]] = {}
    for event in kept:
        hours.setdefault(event.hour, []).append(event)

    def make(hour: str) -> Blob:
        return _blob(part_key(hour, batch.id), tables.part(batch.id, batch.time, hours[hour]), "application/vnd.apache.parquet")

    return [(part_key(hour, batch.id), partial(make, hour)) for hour in sorted(hours)]


def _dead_letters(batch: Batch, staged: Staged) -> list[File]:
    key = dead_letters_key(batch.id)
    found = staged.rejections
    return [(key, lambda: _blob(key, letters.dead_letter_file(found), "application/x-ndjson"))] if found else []


def _repeats(batch: Batch, staged: Staged, repeats: Mapping[Source, Source]) -> list[File]:
    key = repeats_key(batch.id)
    found = [(event, repeats[event.record.source]) for event in staged.events if event.record.source in repeats]
    return [(key, lambda: _blob(key, letters.repeat_file(found), "application/x-ndjson"))] if found else []


def _archive(make: Callable[[], Blob], ports: Ports, watch: Stopwatch) -> str:
    """Answers the SHA-256 of what was written."""
    with watch("encode"):
        blob = make()
        digest = letters.digest(blob.body)
    with watch("files"):
        ports.archive.put([blob])
    return digest


def _blob(key: str, body: bytes, content_type: str) -> Blob:
    return Blob(key, body, content_type, {})


# Close and commit.


def must_be_closed(batch: Batch, ports: Ports) -> None:
    """All is well if the batch's record is there. Raises TakenOver if it is not."""
    if ports.ledger.record(batch.id) is None:
        raise TakenOver(f"batch {batch.id} is neither pending nor closed: another executor went another way. Nothing was changed.")


def commit(record: BatchRecord, ports: Ports) -> None:
    """Show the progress to Kafka's lag tools. It decides nothing: whoever comes next may repeat it."""
    if record.batch.kind is BatchKind.INGEST:
        ports.log.commit(record.ends)


def recommit(plan: Plan, ports: Ports) -> None:
    """Set the group's offsets to what the ledger says, where they differ."""
    if plan.recommit:
        snapshot = ports.ledger.snapshot()
        ports.log.commit({each: snapshot.head(each).next for each in plan.recommit if not snapshot.why_unreadable(each)})


def sweep(ports: Ports) -> list[str]:
    """Delete staging files of batches that are closed: left by whoever died between the close and the delete."""
    closed = [key for key in ports.archive.keys(staging_key("")) if _is_closed(key.rpartition("/")[2], ports)]
    ports.archive.delete(closed)
    return closed


def _is_closed(batch_id: str, ports: Ports) -> bool:
    """False as well where the ledger's word of it cannot be read: its file is left, and fails nobody."""
    try:
        return ports.ledger.pending(batch_id) is None and ports.ledger.record(batch_id) is not None
    except Contradiction:
        return False
