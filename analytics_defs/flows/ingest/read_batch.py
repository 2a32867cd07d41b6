"""Before the take: nothing is written, except where a topic's account begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analytics_defs.core.events.event import ClassifiedRecord
from analytics_defs.core.ingest.batch_builder import single_offset_range, uncovered_ranges
from analytics_defs.core.ingest.planning import OnDataLoss, Plan, initial_topic_state
from analytics_defs.core.ledger import Batch, LedgerSnapshot
from analytics_defs.core.offsets import Range
from analytics_defs.errors import DataLoss, ResourceMissing, TopicRecreated, Unavailable
from analytics_defs.flows.ingest.planning import read_topic_offsets
from analytics_defs.ports import Ports, ReadResult

if TYPE_CHECKING:
    from analytics_defs.flows.ingest.execute_plan import IngestOptions


def pending_batches(plan: Plan, snapshot: LedgerSnapshot) -> list[Batch]:
    """Batches to finish before anything new is read: those the plan names, and those that hold one of its partitions."""
    heads = [snapshot.checkpoints.get(each.topic_partition) for each in plan.ranges]
    ids = {*plan.pending_batch_ids, *(head.pending_batch_id for head in heads if head and head.pending_batch_id)}
    return [snapshot.pending[each] for each in sorted(ids & snapshot.pending.keys())]


def open_new_topics(plan: Plan, ports: Ports) -> None:
    """Fix where the account of each topic begins, once for all its partitions, before the first of them is taken."""
    known = ports.ledger.snapshot().topics
    unknown = sorted({each.topic_partition.topic for each in plan.ranges} - known.keys())
    for name, seen in read_topic_offsets(unknown, ports).items() if unknown else ():
        if seen is None:
            raise ResourceMissing(
                f"topic {name} does not exist any more; it did when the plan was made. Create it, or take it out of KAFKA_TOPICS."
            )
        ports.ledger.open_topic(initial_topic_state(seen))


def require_exact_ranges(ranges: Sequence[Range], reading: ReadResult) -> tuple[Range, ...]:
    """What was read of the ranges, without the empty ones. Raises Unavailable where that is nothing and no fault says why."""
    read = (Range(each.topic_partition, each.start, reading.ends[each.topic_partition]) for each in ranges)
    exact = tuple(sorted(each for each in read if each))
    if ranges and not exact and not reading.errors:
        raise Unavailable(
            f"Kafka gave nothing of {', '.join(map(str, ranges))}: neither records nor the end of a partition. The lane tries again."
        )
    return exact


def explain_uncovered_ranges(ranges: Sequence[Range], verdicts: Sequence[ClassifiedRecord], lost: Sequence[Range]) -> tuple[Range, ...]:
    return uncovered_ranges(ranges, [*(single_offset_range(each.record.source) for each in verdicts), *lost])


def require_same_topics(ranges: Sequence[Range], snapshot: LedgerSnapshot, ports: Ports) -> None:
    """Asked after reading: then what was read came from the topics the ledger knows. Raises TopicRecreated."""
    now = ports.event_log.topics(sorted({each.topic_partition.topic for each in ranges}))
    for each in ranges:
        name = each.topic_partition.topic
        known, found = snapshot.topics[name].topic_id, now[name].topic_id if name in now else "none"
        if known and found and known != found:
            raise TopicRecreated(
                f"{each.topic_partition}: topic {name} was deleted and created again (id {found}, the ledger knows {known}). "
                f"Run `analytics accept-recreated-topic {name}` to read the new one from its start; what was stored stays. "
                "Where it was not meant, KAFKA_BROKERS may lead to another cluster."
            )


def refuse_data_loss(reading: ReadResult, conduct: IngestOptions) -> None:
    """Retention may pass the next offset after the plan was made. Raises DataLoss where a person wants to decide about that."""
    if reading.lost and conduct.on_data_loss is OnDataLoss.STOP:
        raise DataLoss(
            f"retention removed {', '.join(map(str, reading.lost))} before it was read, and ON_DATA_LOSS=stop. "
            "Set ON_DATA_LOSS=record to record it as lost and go on."
        )
