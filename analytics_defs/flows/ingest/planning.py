"""What Kafka and the ledger say at this moment, and the plans that follow. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from analytics_defs.core.ingest.planning import Planning, Policy, Seen, plan
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.ports import Ports


def look(names: Sequence[str], policy: Policy, ports: Ports) -> Planning:
    """The ledger first, Kafka after it: so no head can seem to be ahead of the log."""
    snapshot = ports.ledger.snapshot()
    return plan(snapshot, observe(names, ports), policy, ports.clock.now())


def observe(names: Sequence[str], ports: Ports) -> dict[str, Seen | None]:
    """What Kafka says of these topics now, None for those that do not exist. Raises Unavailable where no partition answers."""
    found = ports.log.topics(names)
    partitions = [TopicPartition(topic.name, 0, number) for topic in found.values() for number in topic.partitions]
    survey, committed = ports.log.survey(partitions), ports.log.committed(partitions)
    marks = survey.marks
    seen: dict[str, Seen | None] = dict.fromkeys(names)
    for name, topic in found.items():
        mine = [each for each in partitions if each.topic == name and each in marks]
        seen[name] = Seen(
            name,
            topic.topic_id,
            lows={each.partition: marks[each].low for each in mine},
            stables={each.partition: marks[each].stable for each in mine},
            highs={each.partition: marks[each].high for each in mine},
            committed={each.partition: committed[each] for each in mine},
            silent={each.partition: str(fault) for each, fault in survey.silent.items() if each.topic == name},
        )
    return seen
