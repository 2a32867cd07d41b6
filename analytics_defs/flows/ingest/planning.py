"""Read the present state of Kafka and the ledger, and make the plans from it. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence

from analytics_defs.core.ingest.planning import PlanningPolicy, PlanningResult, TopicOffsets, make_plans
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.ports import Ports


def plan_lanes(names: Sequence[str], policy: PlanningPolicy, ports: Ports) -> PlanningResult:
    """Plan every lane. The ledger is read before Kafka, so that no checkpoint can appear to be ahead of the log."""
    snapshot = ports.ledger.snapshot()
    return make_plans(snapshot, read_topic_offsets(names, ports), policy, ports.clock.now())


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
