"""Trace of one record or event: its outcome and the files and items that hold it."""

from __future__ import annotations

from dataclasses import replace

from analytics_defs.core.offsets import Source
from analytics_defs.errors import AnalyticsError, NotFound
from analytics_defs.flows.trace.ledger_lookup import outcome_without_file, unclosed_offset_outcome
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.flows.trace.stored_files import dead_letter_outcome, duplicate_outcome, stored_outcome, unknown_outcome
from analytics_defs.ports import Ports


def trace_record(source_or_id: str, ports: Ports) -> Trace:
    """Trace a source (`topic/partition/offset`) or an event id. Raises NotFound for an id that RecentEvents does not hold.

    Text that looks like a source is read as an event id if the ledger does not know the topic-partition and RecentEvents holds the id.
    """
    try:
        source = Source.parse(source_or_id)
    except ValueError:
        return trace_event(source_or_id, ports)
    trace = trace_source(source, ports)
    if trace.outcome is not RecordOutcome.UNKNOWN_PARTITION or not ports.recent_events.get_items([source_or_id]):
        return trace
    return trace_event(source_or_id, ports)


def trace_event(event_id: str, ports: Ports) -> Trace:
    """Trace the event that owns this id now. If it was redriven, `before` is its rejection."""
    item = ports.recent_events.get_items([event_id]).get(event_id)
    if item is None:
        raise NotFound(
            f"event {event_id!r} is not in RecentEvents: it was never stored, or its 30 days are over. "
            "Trace it by its source (topic/partition/offset), or look in the archive's Parquet by event_id."
        )
    trace = trace_source(item.source, ports)
    return trace if trace.redrive is None else replace(trace.redrive, before=replace(trace, redrive=None))


def trace_source(source: Source, ports: Ports) -> Trace:
    """Trace a source: first by the ledger alone, then by the files of its batch."""
    closed = ports.ledger.closed_range_at(source)
    if closed is None:
        trace = unclosed_offset_outcome(source, ports)
        if trace is not None:
            return _with_log_end(trace, ports) if trace.outcome is RecordOutcome.NOT_READ else trace
        closed = ports.ledger.closed_range_at(source)  # its batch was closed between the two reads
    record = ports.ledger.batch_record(closed.batch_id) if closed else None
    if record is None:
        return Trace(source, RecordOutcome.UNACCOUNTED, detail="its checkpoint has passed it, and no batch record holds it")
    return (
        outcome_without_file(source, record)
        or dead_letter_outcome(source, record, ports)
        or duplicate_outcome(source, record, ports)
        or stored_outcome(source, record, ports)
        or unknown_outcome(source, record, ports)
    )


def _with_log_end(trace: Trace, ports: Ports) -> Trace:
    """Add to the detail that Kafka's log ends before the offset. Unchanged if it does not, or if Kafka does not answer."""
    partition = trace.source.topic_partition
    try:
        high = ports.event_log.watermarks([partition])[partition].high_watermark
    except AnalyticsError:
        return trace
    if trace.source.offset < high:
        return trace
    return replace(trace, detail=f"Kafka's log of {partition} ends at {high} and has no such record yet; {trace.detail}")
