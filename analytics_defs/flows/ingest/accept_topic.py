"""Continue with a topic that was deleted and created again."""

from __future__ import annotations

from analytics_defs.core.ingest.planning import recreation_message
from analytics_defs.core.ledger import Checkpoint, LedgerSnapshot, TopicState
from analytics_defs.errors import NotFound, ResourceNotReady, Superseded, Unavailable
from analytics_defs.flows.ingest.planning import read_topic_offsets
from analytics_defs.ports import Ports


def accept_recreated_topic(topic: str, ports: Ports) -> TopicState:
    """Open the topic's next incarnation in the ledger. Stored data of the old incarnation stays, with its sources.

    Reading starts at the oldest record. If the topic id is unchanged, the log was truncated: reading starts where the old
    incarnation ends. Pending batches are finished from their staging files. Those without one are counted as lost, because
    their records no longer exist.
    Raises NotFound if the topic is still the one the ledger knows, InconsistentState if the ledger cannot be read completely.
    """
    snapshot = ports.ledger.snapshot().require_readable()
    known, offsets = snapshot.topics.get(topic), read_topic_offsets([topic], ports)[topic]
    if offsets is None:
        raise ResourceNotReady(f"topic {topic} does not exist. Create it first (`analytics setup`).")
    for reason in offsets.unavailable.values():
        raise Unavailable(f"topic {topic}: it can be accepted once all of its partitions are available. {reason}")
    if known is None:
        raise NotFound(f"the ledger does not know topic {topic}: there is nothing to accept, the next plan reads it from its start.")
    checkpoints = [(partition, snapshot.checkpoint(known.partition(partition))) for partition in sorted(offsets.log_start_offsets)]
    if not any(recreation_message(known, offsets, checkpoint, partition) for partition, checkpoint in checkpoints):
        raise NotFound(
            f"topic {topic} is still the one the ledger knows (id {known.topic_id or 'not provided by the broker'}): nothing to accept."
        )
    starts: dict[int, int] = {}
    if known.topic_id is not None and known.topic_id == offsets.topic_id:
        starts = {partition: _old_end(checkpoint, offsets.high_watermarks[partition], snapshot) for partition, checkpoint in checkpoints}
    accepted = TopicState(topic, known.incarnation + 1, offsets.topic_id, starts)
    if ports.ledger.open_topic(accepted) != accepted:
        raise Superseded(f"topic {topic}: another process accepted it at the same moment. Nothing was changed by this call.")
    return accepted


def _old_end(checkpoint: Checkpoint, high_watermark: int, snapshot: LedgerSnapshot) -> int:
    """Return the offset at which the old incarnation ends, at most the end of the log.

    Records before it have an outcome under their old sources. Read again under new sources, events without an id of their own
    would count twice. A staged pending batch still gives its whole range an outcome. One without a staging file never will.
    """
    batch = snapshot.pending.get(checkpoint.pending_batch_id) if checkpoint.pending_batch_id else None
    ranges = batch.ranges if batch and batch.staged else ()
    ends = [range_.end for range_ in ranges if range_.topic_partition == checkpoint.topic_partition]
    return min(ends[0] if ends else checkpoint.next_offset, high_watermark)
