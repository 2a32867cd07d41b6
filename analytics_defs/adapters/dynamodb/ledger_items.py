"""The ledger's values as DynamoDB items, and back. Pure. `adapters.dynamodb.ledger_keys` lists the items.

Times are ISO strings with milliseconds and `Z`. Integers are numbers. An absent attribute has the field's default. Lists that grow
with the records of a batch (gaps, lost, tombstones, unaccounted, redriven) are packed, because an item holds 400 KB.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar, get_type_hints

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.attribute_values import AttributeValue, Item
from analytics_defs.adapters.dynamodb.compression import (
    compress,
    compress_gaps,
    compress_ranges,
    decompress,
    decompress_gaps,
    decompress_ranges,
)
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.batch_builder import single_offset_range
from analytics_defs.core.ledger import (
    OUTCOMES,
    Batch,
    BatchKind,
    BatchRecord,
    Checkpoint,
    ClosedRange,
    Lease,
    LedgerSnapshot,
    OutcomeCounts,
    PlatformId,
    RedrivenRecord,
    TopicState,
)
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.core.type_checks import require_type
from analytics_defs.errors import InconsistentState

LEASE_TTL = timedelta(days=1)
"""The table's TTL deletes a lease this long after its last renewal. No other item of the ledger expires."""

_US = timedelta(microseconds=1)

Fields: TypeAlias = Mapping[str, Any]
"""An item's attributes as Python values, by name."""
_V = TypeVar("_V")


# Items and plain values.


def to_item(key: Item, fields: Fields) -> Item:
    """Return the item. Fields that are None or empty are left out."""
    return key | {name: attribute(value) for name, value in fields.items() if value or isinstance(value, int)}


def attribute(value: Any) -> AttributeValue:
    """Return the attribute value of a str, bool, int, bytes, mapping or sequence."""
    match value:
        case str():
            return {"S": str(value)}
        case bool():
            return {"BOOL": value}
        case int():
            return {"N": str(value)}
        case bytes():
            return {"B": value}
        case Mapping():
            return {"M": {name: attribute(field) for name, field in value.items()}}
        case _:
            return {"L": [attribute(element) for element in value]}


def from_item(item: Item) -> dict[str, Any]:
    return {name: _value(value) for name, value in item.items()}


def _value(attribute: AttributeValue) -> Any:
    ((kind, content),) = attribute.items()
    match kind:
        case "N":
            return int(content)
        case "M":
            return from_item(content)
        case "L":
            return [_value(element) for element in content]
        case _:
            return content


def decode_items(decode: Callable[[Fields], _V], item: Item) -> _V:
    """Return the decoded item. Raise InconsistentState, naming the item, if it is damaged or from another version."""
    try:
        value = decode(from_item(item))
        require_type(value, _result_hint(decode), "item")
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, zlib.error) as error:
        item_key = " ".join(f"{name}={item.get(name, {}).get('S')}" for name in ("pk", "sk"))
        raise InconsistentState(
            f"ledger item {item_key} cannot be read ({type(error).__name__}: {error}). A newer version wrote it, or it was "
            "changed by hand: run that version, or restore the item from a backup of the table."
        ) from error
    return value


@lru_cache
def _result_hint(decode: Callable[[Fields], object]) -> Any:
    return get_type_hints(decode)["return"]


# Progress.


def topic_item(topic: TopicState) -> Item:
    starts = {str(partition): start for partition, start in topic.starts.items()}
    return to_item(keys.topic_state_key(topic.topic), {"incarnation": topic.incarnation, "topic_id": topic.topic_id, "starts": starts})


def parse_topic_state(fields: Fields) -> TopicState:
    starts = {int(partition): start for partition, start in fields.get("starts", {}).items()}
    return TopicState(fields["sk"].removeprefix(keys.TOPIC), fields["incarnation"], fields.get("topic_id"), starts)


def parse_checkpoint(fields: Fields) -> Checkpoint:
    """Return the checkpoint of an item. A checkpoint has no encoder: transactions change it field by field."""
    topic_partition = TopicPartition.parse(fields["sk"].removeprefix(keys.CHECKPOINT))
    return Checkpoint(topic_partition, fields["first"], fields["next"], fields.get("batch"), _outcome_counts(fields))


def pending_item(batch: Batch) -> Item:
    return to_item(keys.pending_key(batch.id), _batch_fields(batch))


def parse_pending_batch(fields: Fields) -> Batch:
    return _batch(fields["sk"].removeprefix(keys.PENDING), fields)


def lease_item(lease: Lease) -> Item:
    expires = int((lease.renewed_at + LEASE_TTL).timestamp())
    fields = {"lane": lease.lane, "renewed_at": iso_milliseconds(lease.renewed_at), "expires": expires}
    return to_item(keys.lease_key(lease.run_id), fields)


def parse_lease(fields: Fields) -> Lease:
    return Lease(fields["sk"].removeprefix(keys.LEASE), fields.get("lane"), datetime.fromisoformat(fields["renewed_at"]))


def platform_id_item(platform_id: PlatformId) -> Item:
    fields = {name: getattr(platform_id, name) for name in ("id", "tables", "bucket_id", "proven_buckets")}
    return to_item(keys.platform_id_key(), fields)


def parse_platform_id(fields: Fields) -> PlatformId:
    tables, proven_buckets = (_strings(fields, name) for name in ("tables", "proven_buckets"))
    return PlatformId(fields["id"], tables, fields.get("bucket_id"), proven_buckets)


def _strings(fields: Fields, name: str) -> tuple[str, ...]:
    """Return a list attribute. The characters of a text would make a list, too."""
    require_type(values := fields.get(name, []), list, name)
    return tuple(values)


def parse_snapshot(items: Iterable[Item]) -> LedgerSnapshot:
    """Return the snapshot of all items below `progress`.

    Kinds that only a newer version knows are left out, and so is an unreadable lease, because its run writes it again. Every other
    unreadable item is named in the snapshot, so that it stops only its own topic, partition or batch.
    """
    topics: dict[str, TopicState] = {}
    checkpoints: dict[TopicPartition, Checkpoint] = {}
    pending: dict[str, Batch] = {}
    leases: dict[str, Lease] = {}
    unreadable: dict[str, str] = {}
    platform_id: PlatformId | None = None
    for item in items:
        sk = item["sk"]["S"]
        try:
            if sk.startswith(keys.CHECKPOINT):
                checkpoint = decode_items(parse_checkpoint, item)
                checkpoints[checkpoint.topic_partition] = checkpoint
            elif sk.startswith(keys.PENDING):
                batch = decode_items(parse_pending_batch, item)
                pending[batch.id] = batch
            elif sk.startswith(keys.TOPIC):
                topic = decode_items(parse_topic_state, item)
                topics[topic.topic] = topic
            elif sk.startswith(keys.LEASE):
                lease = decode_items(parse_lease, item)
                leases[lease.run_id] = lease
            elif sk.startswith(keys.PLATFORM_ID):
                platform_id = decode_items(parse_platform_id, item)
        except InconsistentState as error:
            kind, _, name = sk.partition("#")
            unreadable |= {} if f"{kind}#" == keys.LEASE else {name: str(error)}
    return LedgerSnapshot(topics, checkpoints, pending, leases, unreadable, platform_id)


# Closed batches.


def range_item(closed_range: ClosedRange) -> Item:
    return to_item(
        keys.range_key(closed_range.range),
        {"batch": closed_range.batch_id, "start": closed_range.range.start, **_outcomes(closed_range.outcome_counts)},
    )


def range_items(record: BatchRecord) -> list[Item]:
    return [range_item(closed_range) for closed_range in record.closed_ranges]


def parse_closed_range(fields: Fields) -> ClosedRange:
    topic_partition = TopicPartition.parse(fields["pk"].removeprefix(keys.RANGE_PREFIX))
    return ClosedRange(Range(topic_partition, fields["start"], int(fields["sk"])), fields["batch"], _outcome_counts(fields))


def batch_record_item(record: BatchRecord) -> Item:
    return to_item(
        keys.record_key(record.batch.id),
        {
            **_batch_fields(record.batch),
            "closed_at": iso_milliseconds(record.closed_at),
            "range_outcome_counts": [_outcomes(outcome_counts) for outcome_counts in record.range_outcome_counts],
            "gaps": compress_gaps(record.gaps),
            "lost": compress_ranges(record.lost),
            "tombstones": compress_ranges([single_offset_range(source) for source in record.tombstones]),
            "unaccounted": compress_ranges(record.unaccounted),
            "redriven": compress([[str(redriven.source), redriven.reason, redriven.outcome] for redriven in record.redriven]),
            **{name: getattr(record, name) for name in _UNCHANGED_FIELDS},
        },
    )


def parse_batch_record(fields: Fields) -> BatchRecord:
    return BatchRecord(
        batch=_batch(fields["sk"], fields),
        closed_at=datetime.fromisoformat(fields["closed_at"]),
        range_outcome_counts=tuple(map(_outcome_counts, fields["range_outcome_counts"])),
        gaps=tuple(decompress_gaps(fields.get("gaps"))),
        lost=tuple(decompress_ranges(fields.get("lost"))),
        tombstones=tuple(Source(range_.topic_partition, range_.start) for range_ in decompress_ranges(fields.get("tombstones"))),
        unaccounted=tuple(decompress_ranges(fields.get("unaccounted"))),
        redriven=tuple(RedrivenRecord(Source.parse(source), *rest) for source, *rest in decompress(fields.get("redriven"))),
        **{"types": {}, "hours": {}, "reasons": {}} | {name: fields[name] for name in _UNCHANGED_FIELDS if name in fields},
    )


def redriven_items(record: BatchRecord) -> list[Item]:
    return [to_item(keys.redriven_key(redriven.source), {"batch": record.batch.id}) for redriven in record.redriven]


def parse_redriven(fields: Fields) -> tuple[Source, str]:
    name, offset = fields["pk"].removeprefix(keys.REDRIVEN_PREFIX), fields["sk"]
    return Source(TopicPartition.parse(name), int(offset)), fields["batch"]


def parse_counters(fields: Fields) -> dict[str, int]:
    """Return the counts of a counter item or of an adjustment."""
    if "counts" in fields:
        return dict(fields["counts"])
    return {name: count for name, count in fields.items() if name not in ("pk", "sk")}


_UNCHANGED_FIELDS = (
    *("types", "hours", "reasons", "write_event_json", "parts", "dead_letters_key", "dead_letters_digest"),
    *("duplicates_key", "duplicates_digest"),
    *("steps_ms", "duration_ms", "bytes", "record_to_close_ms", "invalid_record_timestamps", "code_version"),
)


def _batch_fields(batch: Batch) -> Fields:
    return {
        "kind": batch.kind,
        "lane": batch.lane,
        "time": iso_milliseconds(batch.time),
        "run": batch.run_id,
        "staged": batch.staged,
        "ranges": [{"partition": str(range_.topic_partition), "start": range_.start, "end": range_.end} for range_ in batch.ranges],
        "redriven_sources": [str(source) for source in batch.redriven_sources],
        "redrive_keys": batch.redrive_keys,
        "redrive_reasons": batch.redrive_reasons,
        "rules": batch.rules and {"max_event_bytes": batch.rules.max_event_bytes, "max_future_skew_us": batch.rules.max_future_skew // _US},
    }


def _rules(fields: Fields) -> ValidationRules:
    return ValidationRules(max_event_bytes=fields["max_event_bytes"], max_future_skew=fields["max_future_skew_us"] * _US)


def _batch(batch_id: str, fields: Fields) -> Batch:
    return Batch(
        id=batch_id,
        kind=BatchKind(fields["kind"]),
        lane=fields["lane"],
        time=datetime.fromisoformat(fields["time"]),
        ranges=tuple(Range(TopicPartition.parse(range_["partition"]), range_["start"], range_["end"]) for range_ in fields["ranges"]),
        run_id=fields["run"],
        redriven_sources=tuple(map(Source.parse, fields.get("redriven_sources", ()))),
        redrive_keys=tuple(fields.get("redrive_keys", ())),
        redrive_reasons=tuple(fields.get("redrive_reasons", ())),
        rules=_rules(fields["rules"]) if "rules" in fields else None,
        staged=fields.get("staged"),
    )


def _outcomes(outcome_counts: OutcomeCounts) -> dict[str, int]:
    return {name: count for name, count in outcome_counts.as_dict().items() if count}


def _outcome_counts(fields: Fields) -> OutcomeCounts:
    return OutcomeCounts(**{name: fields[name] for name in OUTCOMES if name in fields})
