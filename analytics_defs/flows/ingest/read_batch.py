"""Read the next batch. Nothing is written, except the state of a topic that is new to the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from analytics_defs.core.events.event import ClassifiedRecord, classify
from analytics_defs.core.ingest.batch_builder import BatchBuilder, StagedBatch, single_offset_range, uncovered_ranges
from analytics_defs.core.ingest.planning import OnDataLoss, Plan, initial_topic_state
from analytics_defs.core.ledger import Batch, BatchKind, LedgerSnapshot
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.storage.object_keys import batch_id
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.errors import AnalyticsError, DataLoss, ResourceNotReady, TopicRecreated, Unavailable
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.planning import read_topic_offsets
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.ports import Ports, ReadResult

NextBatch: TypeAlias = tuple[Batch | None, StagedBatch, Mapping[TopicPartition, AnalyticsError]]
"""The next batch, None if nothing could be read; its content; partitions that cannot be read any further, and why."""


def read_batch(remaining: Plan, snapshot: LedgerSnapshot, ports: Ports, options: IngestOptions, stopwatch: Stopwatch) -> NextBatch:
    """Read and classify records until a limit cuts the batch."""
    with stopwatch("read"):
        now, ranges = whole_milliseconds(ports.clock.now()), remaining.ranges[: options.limits.max_ranges]
        builder = BatchBuilder(
            options.limits,
            lambda record: classify(record, options.validation_rules, now),
            {range_.topic_partition: range_.start for range_ in ranges},
        )
        result = ports.event_log.read(ranges, builder.admit)
        raise_on_data_loss(result, options)
        exact = ranges_read(ranges, result)
        gaps = ports.event_log.explain_gaps(offsets_without_record(exact, builder.sorted(), result.lost))
        require_same_topics(exact, snapshot, ports)
    staged = StagedBatch(builder.sorted(), gaps, result.lost, options.write_event_json)
    if not exact:
        return None, staged, result.errors
    batch = Batch(batch_id(now, exact), BatchKind.INGEST, remaining.lane, now, exact, options.run_id, rules=options.validation_rules)
    return batch, staged, result.errors


def pending_batches(plan: Plan, snapshot: LedgerSnapshot) -> list[Batch]:
    """Return the batches to finish before anything new is read: those in the plan, and those pending in one of its partitions."""
    checkpoints = [snapshot.checkpoints.get(range_.topic_partition) for range_ in plan.ranges]
    pending = (checkpoint.pending_batch_id for checkpoint in checkpoints if checkpoint and checkpoint.pending_batch_id)
    ids = {*plan.pending_batch_ids, *pending}
    return [snapshot.pending[id_] for id_ in sorted(ids & snapshot.pending.keys())]


def open_new_topics(plan: Plan, ports: Ports) -> None:
    """Store the start offsets of topics that are new to the ledger: for all partitions at once, before the first batch begins."""
    known = ports.ledger.snapshot().topics
    unknown = sorted({range_.topic_partition.topic for range_ in plan.ranges} - known.keys())
    for name, offsets in read_topic_offsets(unknown, ports).items() if unknown else ():
        if offsets is None:
            raise ResourceNotReady(
                f"topic {name} does not exist any more; it did when the plan was made. Create it, or remove it from KAFKA_TOPICS."
            )
        ports.ledger.open_topic(initial_topic_state(offsets))


def ranges_read(ranges: Sequence[Range], reading: ReadResult) -> tuple[Range, ...]:
    """Return the ranges that were read, without empty ones. Raise Unavailable if nothing was read and no error explains it."""
    read = (Range(range_.topic_partition, range_.start, reading.ends[range_.topic_partition]) for range_ in ranges)
    exact = tuple(sorted(range_ for range_ in read if range_))
    if ranges and not exact and not reading.errors:
        raise Unavailable(
            f"Kafka returned nothing for {', '.join(map(str, ranges))}: neither records nor the end of a partition. The lane tries again."
        )
    return exact


def offsets_without_record(ranges: Sequence[Range], records: Sequence[ClassifiedRecord], lost: Sequence[Range]) -> tuple[Range, ...]:
    """Return the offsets of the ranges that hold no record and were not lost to retention."""
    return uncovered_ranges(ranges, [*(single_offset_range(record.record.source) for record in records), *lost])


def require_same_topics(ranges: Sequence[Range], snapshot: LedgerSnapshot, ports: Ports) -> None:
    """Check after the read that the records came from the topics that the ledger knows. Raises TopicRecreated."""
    now = ports.event_log.topics(sorted({range_.topic_partition.topic for range_ in ranges}))
    for range_ in ranges:
        name = range_.topic_partition.topic
        known, current = snapshot.topics[name].topic_id, now[name].topic_id if name in now else "none"
        if known and current and known != current:
            raise TopicRecreated(
                f"{range_.topic_partition}: topic {name} was deleted and created again (id {current}, the ledger knows {known}). "
                f"Run `analytics accept-recreated-topic {name}` to read the new one from its start; what was stored stays. "
                "If that was not intended, KAFKA_BROKERS may point to another cluster."
            )


def raise_on_data_loss(reading: ReadResult, options: IngestOptions) -> None:
    """Raise DataLoss if Kafka's retention removed offsets since the plan was made, and ON_DATA_LOSS is `stop`."""
    if reading.lost and options.on_data_loss is OnDataLoss.STOP:
        raise DataLoss(
            f"retention removed {', '.join(map(str, reading.lost))} before they were read, and ON_DATA_LOSS=stop. "
            "Set ON_DATA_LOSS=continue to record them as lost and continue."
        )
