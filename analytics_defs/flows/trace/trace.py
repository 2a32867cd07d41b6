"""Where did my event go? An answer for every source and for every id that is still known."""

from __future__ import annotations

from dataclasses import replace

from analytics_defs.core.offsets import Source
from analytics_defs.errors import AnalyticsError, NotFound
from analytics_defs.flows.trace.ledger_lookup import outcome_without_file, unclosed_offset_outcome
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.flows.trace.stored_files import dead_letter_outcome, duplicate_outcome, stored_outcome, unknown_outcome
from analytics_defs.ports import Ports


def trace_record(what: str, ports: Ports) -> Trace:
    """By source (`topic/partition/offset`) or by event id. Raises NotFound for an id that RecentEvents does not hold.

    An id may look like a source: it is taken for one where the ledger has no account of that topic-partition. Of a source that was not
    read yet it is said where Kafka's log ends before it, if Kafka answers.
    """
    try:
        source = Source.parse(what)
    except ValueError:
        return trace_event(what, ports)
    told = trace_source(source, ports)
    if told.outcome is not RecordOutcome.UNKNOWN_PARTITION or not ports.recent_events.get_items([what]):
        return told
    return trace_event(what, ports)


def _beyond_the_end(told: Trace, ports: Ports) -> Trace:
    at = told.source.topic_partition
    try:
        high = ports.event_log.watermarks([at])[at].high_watermark
    except AnalyticsError:
        return told
    if told.source.offset < high:
        return told
    return replace(told, detail=f"Kafka's log of {at} ends at {high} and has no such record yet; {told.detail}")


def trace_event(event_id: str, ports: Ports) -> Trace:
    """The event as it is now; where its source was rejected first, that stands below, in `before`."""
    item = ports.recent_events.get_items([event_id]).get(event_id)
    if item is None:
        raise NotFound(
            f"event {event_id!r} is not in RecentEvents: it was never stored, or its 30 days are over. "
            "Trace it by its source (topic/partition/offset), or look in the archive's Parquet by event_id."
        )
    told = trace_source(item.source, ports)
    return told if told.redrive is None else replace(told.redrive, before=replace(told, redrive=None))


def trace_source(source: Source, ports: Ports) -> Trace:
    """The ledger's word, and the evidence in the stores."""
    found = ports.ledger.closed_range_at(source)
    if found is None:
        ahead = unclosed_offset_outcome(source, ports)
        if ahead is not None:
            return _beyond_the_end(ahead, ports) if ahead.outcome is RecordOutcome.NOT_READ else ahead
        found = ports.ledger.closed_range_at(source)  # its batch was closed between the two readings
    record = ports.ledger.batch_record(found.batch_id) if found else None
    if record is None:
        return Trace(source, RecordOutcome.UNACCOUNTED, detail="its head has passed it, and no batch record holds it")
    return (
        outcome_without_file(source, record)
        or dead_letter_outcome(source, record, ports)
        or duplicate_outcome(source, record, ports)
        or stored_outcome(source, record, ports)
        or unknown_outcome(source, record, ports)
    )
