"""Go on after a topic was deleted and created again."""

from __future__ import annotations

from analytics_defs.core.ingest.planning import recreated
from analytics_defs.core.ledger import Head, Snapshot, TopicState
from analytics_defs.errors import Missing, NotFound, TakenOver, Unavailable
from analytics_defs.flows.ingest.planning import observe
from analytics_defs.ports import Ports


def accept_topic(topic: str, ports: Ports) -> TopicState:
    """Start the topic's next generation: at its oldest record, or, where its id says that it is the same topic whose log was cut, where
    the old one ends. What the old one stored stays, with its sources.

    Batches still pending there are finished from their staging files; those without one are counted as lost, for their records are no more.
    Raises NotFound where the topic is still the one the ledger knows, Contradiction where the ledger cannot be read as a whole.
    """
    snapshot = ports.ledger.snapshot().readable()
    known, seen = snapshot.topics.get(topic), observe([topic], ports)[topic]
    if seen is None:
        raise Missing(f"topic {topic} does not exist. Create it first (`analytics setup`).")
    for why in seen.silent.values():
        raise Unavailable(f"topic {topic}: accepted it can be once all of its partitions answer. {why}")
    if known is None:
        raise NotFound(f"the ledger does not know topic {topic}: there is nothing to accept, the next plan reads it from its start.")
    heads = [(partition, snapshot.head(known.partition(partition))) for partition in sorted(seen.lows)]
    if not any(recreated(known, seen, head, partition) for partition, head in heads):
        raise NotFound(
            f"topic {topic} is still the one the ledger knows (id {known.topic_id or 'not told by the broker'}): nothing to accept."
        )
    same = known.topic_id is not None and known.topic_id == seen.topic_id
    starts = {partition: _where_it_ends(head, seen.highs[partition], snapshot) for partition, head in heads} if same else {}
    following = TopicState(topic, known.generation + 1, seen.topic_id, starts)
    if ports.ledger.open_topic(following) != following:
        raise TakenOver(f"topic {topic}: somebody else accepted it at the same moment. Nothing was changed by this call.")
    return following


def _where_it_ends(head: Head, high: int, snapshot: Snapshot) -> int:
    """Records before this have a fate under the old sources: read again under new ones, events without an id of theirs would count twice.

    A pending batch with a staging file still gives all of its range its fate; one that has none never will, once its generation is over.
    """
    batch = snapshot.pending.get(head.pending) if head.pending else None
    ends = [each.end for each in batch.ranges if each.topic_partition == head.topic_partition] if batch and batch.staged else []
    return min(ends[0] if ends else head.next, high)
