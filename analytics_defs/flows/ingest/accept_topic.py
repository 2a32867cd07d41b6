"""Go on after a topic was deleted and created again."""

from __future__ import annotations

from analytics_defs.core.ingest.planning import recreation_error
from analytics_defs.core.ledger import Checkpoint, LedgerSnapshot, TopicState
from analytics_defs.errors import NotFound, ResourceMissing, Superseded, Unavailable
from analytics_defs.flows.ingest.planning import read_topic_offsets
from analytics_defs.ports import Ports


def accept_recreated_topic(topic: str, ports: Ports) -> TopicState:
    """Start the topic's next generation: at its oldest record, or, where its id says that it is the same topic whose log was cut, where
    the old one ends. What the old one stored stays, with its sources.

    Batches still pending there are finished from their staging files; those without one are counted as lost, for their records are no more.
    Raises NotFound where the topic is still the one the ledger knows, Contradiction where the ledger cannot be read as a whole.
    """
    snapshot = ports.ledger.snapshot().require_readable()
    known, seen = snapshot.topics.get(topic), read_topic_offsets([topic], ports)[topic]
    if seen is None:
        raise ResourceMissing(f"topic {topic} does not exist. Create it first (`analytics setup`).")
    for why in seen.unavailable.values():
        raise Unavailable(f"topic {topic}: accepted it can be once all of its partitions answer. {why}")
    if known is None:
        raise NotFound(f"the ledger does not know topic {topic}: there is nothing to accept, the next plan reads it from its start.")
    heads = [(partition, snapshot.checkpoint(known.partition(partition))) for partition in sorted(seen.log_start_offsets)]
    if not any(recreation_error(known, seen, head, partition) for partition, head in heads):
        raise NotFound(
            f"topic {topic} is still the one the ledger knows (id {known.topic_id or 'not told by the broker'}): nothing to accept."
        )
    same = known.topic_id is not None and known.topic_id == seen.topic_id
    starts = {partition: _where_it_ends(head, seen.high_watermarks[partition], snapshot) for partition, head in heads} if same else {}
    following = TopicState(topic, known.incarnation + 1, seen.topic_id, starts)
    if ports.ledger.open_topic(following) != following:
        raise Superseded(f"topic {topic}: somebody else accepted it at the same moment. Nothing was changed by this call.")
    return following


def _where_it_ends(head: Checkpoint, high: int, snapshot: LedgerSnapshot) -> int:
    """Records before this have a fate under the old sources: read again under new ones, events without an id of theirs would count twice.

    A pending batch with a staging file still gives all of its range its fate; one that has none never will, once its generation is over.
    """
    batch = snapshot.pending.get(head.pending_batch_id) if head.pending_batch_id else None
    ends = [each.end for each in batch.ranges if each.topic_partition == head.topic_partition] if batch and batch.staged else []
    return min(ends[0] if ends else head.next_offset, high)
