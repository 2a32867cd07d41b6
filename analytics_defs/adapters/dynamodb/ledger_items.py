"""The ledger's values as DynamoDB items, and back. Pure; `core.ledger_keys` says where each one lies.

Times are ISO strings with milliseconds and `Z`, integers are numbers; what is absent has the field's default. Lists that grow with the
records of a batch (gaps, lost, tombstones, unaccounted, redriven) are packed: an item holds 400 KB.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.attribute_values import AttributeValue, Item
from analytics_defs.adapters.dynamodb.packed_lists import packed, packed_gaps, packed_ranges, unpacked, unpacked_gaps, unpacked_ranges
from analytics_defs.core.events.event import Rules
from analytics_defs.core.ingest.batch_builder import one
from analytics_defs.core.ledger import (
    OUTCOMES,
    Batch,
    BatchKind,
    BatchRecord,
    Head,
    Lease,
    RangeRecord,
    Redriven,
    Seal,
    Snapshot,
    Tally,
    TopicState,
)
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import Contradiction

LEASE_KEPT = timedelta(days=1)
"""After its last renewal, by the table's TTL: leases of runs that were killed go by themselves. Nothing else in the ledger expires."""

_US = timedelta(microseconds=1)

Fields: TypeAlias = Mapping[str, Any]
"""An item's attributes as Python values, by name."""
V = TypeVar("V")


# Items and plain values.


def item_of(key: Item, fields: Fields) -> Item:
    """What is None or empty is left out."""
    return key | {name: attribute(value) for name, value in fields.items() if value or isinstance(value, int)}


def attribute(value: Any) -> AttributeValue:
    """A str, bool, int, bytes, mapping or sequence."""
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
            return {"M": {name: attribute(each) for name, each in value.items()}}
        case _:
            return {"L": [attribute(each) for each in value]}


def fields_of(item: Item) -> dict[str, Any]:
    return {name: _value(value) for name, value in item.items()}


def _value(attribute: AttributeValue) -> Any:
    ((kind, content),) = attribute.items()
    match kind:
        case "N":
            return int(content)
        case "M":
            return fields_of(content)
        case "L":
            return [_value(each) for each in content]
        case _:
            return content


def decoded(decode: Callable[[Fields], V], item: Item) -> V:
    """Raises Contradiction, naming the item, where it is damaged or from another version."""
    try:
        return decode(fields_of(item))
    except (KeyError, ValueError, TypeError, IndexError, zlib.error) as error:
        where = " ".join(f"{name}={item.get(name, {}).get('S')}" for name in ("pk", "sk"))
        raise Contradiction(
            f"ledger item {where} cannot be read ({type(error).__name__}: {error}). A newer version wrote it, or somebody "
            "changed it by hand: run that version, or restore the item from a backup of the table."
        ) from error


# Progress.


def topic_item(topic: TopicState) -> Item:
    starts = {str(partition): start for partition, start in topic.starts.items()}
    return item_of(keys.topic_key(topic.topic), {"generation": topic.generation, "topic_id": topic.topic_id, "starts": starts})


def topic_of(fields: Fields) -> TopicState:
    starts = {int(partition): start for partition, start in fields.get("starts", {}).items()}
    return TopicState(fields["sk"].removeprefix(keys.TOPIC), fields["generation"], fields.get("topic_id"), starts)


def head_of(fields: Fields) -> Head:
    """A head has no encoder: transactions move it field by field."""
    topic_partition = TopicPartition.parse(fields["sk"].removeprefix(keys.HEAD))
    return Head(topic_partition, fields["first"], fields["next"], fields.get("batch"), _tally(fields))


def pending_item(batch: Batch) -> Item:
    return item_of(keys.pending_key(batch.id), _batch_fields(batch))


def pending_of(fields: Fields) -> Batch:
    return _batch(fields["sk"].removeprefix(keys.PENDING), fields)


def lease_item(lease: Lease) -> Item:
    expires = int((lease.renewed_at + LEASE_KEPT).timestamp())
    fields = {"lane": lease.lane, "renewed_at": iso_milliseconds(lease.renewed_at), "expires": expires}
    return item_of(keys.lease_key(lease.run_id), fields)


def lease_of(fields: Fields) -> Lease:
    return Lease(fields["sk"].removeprefix(keys.LEASE), fields["lane"], datetime.fromisoformat(fields["renewed_at"]))


def seal_item(seal: Seal) -> Item:
    return item_of(keys.seal_key(), {"id": seal.id, "tables": seal.tables, "mark": seal.mark})


def seal_of(fields: Fields) -> Seal:
    return Seal(fields["id"], tuple(fields.get("tables", ())), fields.get("mark"))


def snapshot_of(items: Iterable[Item]) -> Snapshot:
    """Of all items of the progress. Kinds that only a newer version knows are left out, and so is a lease that cannot be read: its run
    writes it again. Any other that cannot be read is named in the answer: it must hold back only what it is of.
    """
    topics: dict[str, TopicState] = {}
    heads: dict[TopicPartition, Head] = {}
    pending: dict[str, Batch] = {}
    leases: dict[str, Lease] = {}
    unreadable: dict[str, str] = {}
    seal: Seal | None = None
    for item in items:
        sk = item["sk"]["S"]
        try:
            if sk.startswith(keys.HEAD):
                head = decoded(head_of, item)
                heads[head.topic_partition] = head
            elif sk.startswith(keys.PENDING):
                batch = decoded(pending_of, item)
                pending[batch.id] = batch
            elif sk.startswith(keys.TOPIC):
                topic = decoded(topic_of, item)
                topics[topic.topic] = topic
            elif sk.startswith(keys.LEASE):
                lease = decoded(lease_of, item)
                leases[lease.run_id] = lease
            elif sk.startswith(keys.SEAL):
                seal = decoded(seal_of, item)
        except Contradiction as fault:
            kind, _, name = sk.partition("#")
            unreadable |= {} if f"{kind}#" == keys.LEASE else {name: str(fault)}
    return Snapshot(topics, heads, pending, leases, unreadable, seal)


# Closed batches.


def range_item(record: RangeRecord) -> Item:
    return item_of(keys.range_key(record.range), {"batch": record.batch_id, "start": record.range.start, **_outcomes(record.tally)})


def range_of(fields: Fields) -> RangeRecord:
    topic_partition = TopicPartition.parse(fields["pk"].removeprefix(keys.RANGE))
    return RangeRecord(Range(topic_partition, fields["start"], int(fields["sk"])), fields["batch"], _tally(fields))


def record_item(record: BatchRecord) -> Item:
    return item_of(
        keys.record_key(record.batch.id),
        {
            **_batch_fields(record.batch),
            "closed_at": iso_milliseconds(record.closed_at),
            "tallies": [_outcomes(tally) for tally in record.tallies],
            "gaps": packed_gaps(record.gaps),
            "lost": packed_ranges(record.lost),
            "tombstones": packed_ranges([one(source) for source in record.tombstones]),
            "unaccounted": packed_ranges(record.unaccounted),
            "redriven": packed([[str(each.source), each.reason, each.outcome] for each in record.redriven]),
            **{name: getattr(record, name) for name in _AS_THEY_ARE},
        },
    )


def record_of(fields: Fields) -> BatchRecord:
    return BatchRecord(
        batch=_batch(fields["sk"], fields),
        closed_at=datetime.fromisoformat(fields["closed_at"]),
        tallies=tuple(map(_tally, fields["tallies"])),
        gaps=tuple(unpacked_gaps(fields.get("gaps"))),
        lost=tuple(unpacked_ranges(fields.get("lost"))),
        tombstones=tuple(Source(each.topic_partition, each.start) for each in unpacked_ranges(fields.get("tombstones"))),
        unaccounted=tuple(unpacked_ranges(fields.get("unaccounted"))),
        redriven=tuple(Redriven(Source.parse(source), *rest) for source, *rest in unpacked(fields.get("redriven"))),
        **{"types": {}, "hours": {}, "reasons": {}} | {name: fields[name] for name in _AS_THEY_ARE if name in fields},
    )


def redriven_of(fields: Fields) -> tuple[Source, str]:
    name, offset = fields["pk"].removeprefix(keys.REDRIVEN), fields["sk"]
    return Source(TopicPartition.parse(name), int(offset)), fields["batch"]


def counters_of(fields: Fields) -> dict[str, int]:
    """Of a counter item, or of an adjustment."""
    if "counts" in fields:
        return dict(fields["counts"])
    return {name: count for name, count in fields.items() if name not in ("pk", "sk")}


_AS_THEY_ARE = (
    *("types", "hours", "reasons", "event_objects", "parts", "dead_letters_key", "dead_letters_digest", "repeats_key"),
    *("steps_ms", "duration_ms", "bytes", "record_to_close_ms", "code_version"),
)


def _batch_fields(batch: Batch) -> Fields:
    return {
        "kind": batch.kind,
        "lane": batch.lane,
        "time": iso_milliseconds(batch.time),
        "run": batch.run_id,
        "staged": batch.staged,
        "ranges": [{"partition": str(each.topic_partition), "start": each.start, "end": each.end} for each in batch.ranges],
        "redrives": [str(source) for source in batch.redrives],
        "redrive_keys": batch.redrive_keys,
        "redrive_reasons": batch.redrive_reasons,
        "rules": batch.rules and {"max_event_bytes": batch.rules.max_event_bytes, "max_future_skew_us": batch.rules.max_future_skew // _US},
    }


def _rules(fields: Fields) -> Rules:
    return Rules(max_event_bytes=fields["max_event_bytes"], max_future_skew=fields["max_future_skew_us"] * _US)


def _batch(batch_id: str, fields: Fields) -> Batch:
    return Batch(
        id=batch_id,
        kind=BatchKind(fields["kind"]),
        lane=fields["lane"],
        time=datetime.fromisoformat(fields["time"]),
        ranges=tuple(Range(TopicPartition.parse(each["partition"]), each["start"], each["end"]) for each in fields["ranges"]),
        run_id=fields["run"],
        redrives=tuple(map(Source.parse, fields.get("redrives", ()))),
        redrive_keys=tuple(fields.get("redrive_keys", ())),
        redrive_reasons=tuple(fields.get("redrive_reasons", ())),
        rules=_rules(fields["rules"]) if "rules" in fields else None,
        staged=fields.get("staged"),
    )


def _outcomes(tally: Tally) -> dict[str, int]:
    return {name: count for name, count in tally.as_dict().items() if count}


def _tally(fields: Fields) -> Tally:
    return Tally(**{name: fields[name] for name in OUTCOMES if name in fields})
