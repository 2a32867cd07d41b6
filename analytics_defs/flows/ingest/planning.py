"""What Kafka and the ledger say at this moment, and the plans that follow. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from analytics_defs.core.ingest.planning import PlanningPolicy, PlanningResult, TopicOffsets, make_plans
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.ports import Ports


def plan_lanes(names: Sequence[str], policy: PlanningPolicy, ports: Ports) -> PlanningResult:
    """The ledger first, Kafka after it: so no head can seem to be ahead of the log."""
    snapshot = ports.ledger.snapshot()
    return make_plans(snapshot, read_topic_offsets(names, ports), policy, ports.clock.now())


def read_topic_offsets(names: Sequence[str], ports: Ports) -> dict[str, TopicOffsets | None]:
    """What Kafka says of these topics now, None for those that do not exist. Raises Unavailable where no partition answers."""
    found = ports.event_log.topics(names)
    partitions = [TopicPartition(topic.name, 0, number) for topic in found.values() for number in topic.partitions]
    survey, committed = ports.event_log.available_watermarks(partitions), ports.event_log.committed(partitions)
    marks = survey.watermarks
    seen: dict[str, TopicOffsets | None] = dict.fromkeys(names)
    for name, topic in found.items():
        mine = [each for each in partitions if each.topic == name and each in marks]
        seen[name] = TopicOffsets(
            name,
            topic.topic_id,
            log_start_offsets={each.partition: marks[each].log_start_offset for each in mine},
            last_stable_offsets={each.partition: marks[each].last_stable_offset for each in mine},
            high_watermarks={each.partition: marks[each].high_watermark for each in mine},
            committed={each.partition: committed[each] for each in mine},
            unavailable={each.partition: str(fault) for each, fault in survey.unavailable.items() if each.topic == name},
        )
    return seen
