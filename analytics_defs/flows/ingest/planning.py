"""Read the present state of Kafka and the ledger, and make the plans from it. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analytics_defs.core.ingest.planning import PlanningPolicy, PlanningResult, TopicOffsets, make_plans
from analytics_defs.core.ledger import LedgerSnapshot, contradicted_checkpoint_message, pending_batches_of
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.ports import Ports


def plan_lanes(names: Sequence[str], policy: PlanningPolicy, ports: Ports) -> PlanningResult:
    """Plan every lane. The ledger is read before Kafka, so that no checkpoint can appear to be ahead of the log.

    A partition whose checkpoint contradicts its closed ranges is halted.
    """
    snapshot, offsets, now = ports.ledger.snapshot(), read_topic_offsets(names, ports), ports.clock.now()
    planned = make_plans(snapshot, offsets, policy, now)
    contradicted = contradicted_checkpoints(planned, ports)
    if not contradicted:
        return planned
    return make_plans(replace(snapshot, unreadable={**snapshot.unreadable, **contradicted}), offsets, policy, now)


def contradicted_checkpoints(planned: PlanningResult, ports: Ports) -> dict[str, str]:
    """Return a message for each planned partition whose checkpoint is behind the batches in the ledger, by its name.

    A contradiction counts if two reads in a row show it, because a transaction may be visible in some items and not in others.
    """
    if not (first := _contradictions(planned, planned.snapshot, ports)):
        return {}
    second = _contradictions(planned, ports.ledger.snapshot(), ports)
    return {name: message for name, message in second.items() if name in first}


def _contradictions(planned: PlanningResult, snapshot: LedgerSnapshot, ports: Ports) -> dict[str, str]:
    """Compare the checkpoints. Only partitions without one, and those whose group offset is ahead of theirs, cost a query."""
    committed = {lag.topic_partition: lag.committed or 0 for lag in planned.lags}
    messages = dict[str, str]()
    for topic_partition in (range_.topic_partition for plan in planned.plans for range_ in plan.ranges):
        checkpoint = snapshot.checkpoints.get(topic_partition)
        if checkpoint and checkpoint.pending_batch_id:
            continue
        evidence = pending_batches_of(topic_partition, snapshot.pending)
        if checkpoint is None or committed.get(topic_partition, 0) > checkpoint.next_offset:
            after = checkpoint.next_offset if checkpoint else 0
            evidence += [str(closed.range) for closed in ports.ledger.closed_ranges_after(topic_partition, after, 1)]
        if checkpoint and checkpoint.unaccounted < 0:
            evidence.append(f"its own {checkpoint.totals.total} outcomes from offset {checkpoint.first_offset} on")
        if evidence:
            next_offset = checkpoint.next_offset if checkpoint else None
            messages[str(topic_partition)] = contradicted_checkpoint_message(topic_partition, next_offset, evidence[0])
    return messages


def read_topic_offsets(names: Sequence[str], ports: Ports) -> dict[str, TopicOffsets | None]:
    """Return Kafka's offsets of these topics, None for topics that do not exist. Raise Unavailable if no partition is available."""
    topics = ports.event_log.topics(names)
    partitions = [TopicPartition(topic.name, 0, number) for topic in topics.values() for number in topic.partitions]
    result, committed = ports.event_log.available_watermarks(partitions), ports.event_log.committed(partitions)
    watermarks = result.watermarks
    offsets: dict[str, TopicOffsets | None] = dict.fromkeys(names)
    for name, topic in topics.items():
        available = [partition for partition in partitions if partition.topic == name and partition in watermarks]
        offsets[name] = TopicOffsets(
            name,
            topic.topic_id,
            log_start_offsets={at.partition: watermarks[at].log_start_offset for at in available},
            last_stable_offsets={at.partition: watermarks[at].last_stable_offset for at in available},
            high_watermarks={at.partition: watermarks[at].high_watermark for at in available},
            committed={at.partition: committed[at] for at in available},
            unavailable={at.partition: str(error) for at, error in result.unavailable.items() if at.topic == name},
        )
    return offsets
