"""Go on after a topic was deleted and created again."""

from __future__ import annotations

from analytics_defs.core.ledger import TopicState
from analytics_defs.core.plan import recreated
from analytics_defs.errors import Missing, NotFound, TakenOver
from analytics_defs.flows.observe import observe
from analytics_defs.ports import Ports


def accept_topic(topic: str, ports: Ports) -> TopicState:
    """Start the topic's next generation at its oldest record. What the old one stored stays, with its sources.

    Batches still pending there are finished from their staging files; those without one are counted as lost, for their records are no more.
    Raises NotFound where the topic is still the one the ledger knows.
    """
    snapshot = ports.ledger.snapshot()
    known, seen = snapshot.topics.get(topic), observe([topic], ports)[topic]
    if seen is None:
        raise Missing(f"topic {topic} does not exist. Create it first (`analytics setup`).")
    if known is None:
        raise NotFound(f"the ledger does not know topic {topic}: there is nothing to accept, the next plan reads it from its start.")
    heads = [(partition, snapshot.head(known.partition(partition))) for partition in sorted(seen.lows)]
    if not any(recreated(known, seen, head, partition) for partition, head in heads):
        raise NotFound(
            f"topic {topic} is still the one the ledger knows (id {known.topic_id or 'not told by the broker'}): nothing to accept."
        )
    following = TopicState(topic, known.generation + 1, seen.topic_id, {})
    if ports.ledger.open_topic(following) != following:
        raise TakenOver(f"topic {topic}: somebody else accepted it at the same moment. Nothing was changed by this call.")
    return following
