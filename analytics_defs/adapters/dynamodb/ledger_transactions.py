"""The ledger's conditional writes as DynamoDB requests. Pure. Everything that a begin or a close changes is one transaction.

An action is one entry of `TransactWriteItems`. `adapters.dynamodb.ledger_keys` lists the items.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.attribute_values import MAX_ITEM_BYTES, MAX_TRANSACT_ACTIONS, MAX_TRANSACT_BYTES, Item, item_size
from analytics_defs.adapters.dynamodb.counter_items import adjustment_item
from analytics_defs.adapters.dynamodb.hour_items import dead_letter_expiry_item, revision_item
from analytics_defs.adapters.dynamodb.ledger_items import (
    attribute,
    batch_record_item,
    pending_item,
    platform_id_item,
    range_items,
    redriven_items,
    topic_item,
)
from analytics_defs.core.counter_adjustments import Adjustment
from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ingest.batch_accounting import checkpoint_changes, counter_increments, hourly_increments, require_distinct_redrives
from analytics_defs.core.ledger import Batch, BatchRecord, OutcomeCounts, PlatformId, TopicState
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import AnalyticsError

Action: TypeAlias = dict[str, dict[str, Any]]

_ABSENT = "attribute_not_exists(pk)"
_PRESENT = "attribute_exists(pk)"


@dataclass(frozen=True, slots=True)
class LedgerTables:
    """Names of the two tables that one closing transaction changes."""

    ledger: str
    aggregates: str


def begin_batch_actions(batch: Batch, tables: LedgerTables, new: Collection[TopicPartition] = ()) -> list[Action]:
    """Return the actions that begin a batch: checkpoints from idle at `start` to pending, and the batch's entry.

    Those of `new` partitions must be absent. A refusal returns the checkpoints. Raise AnalyticsError if the transaction is too large.
    """
    checkpoints = [_begin(range_, batch.id, tables.ledger, is_new=range_.topic_partition in new) for range_ in batch.ranges]
    return _require_fitting(batch, [*checkpoints, _put(tables.ledger, pending_item(batch), _ABSENT)])


def close_batch_actions(record: BatchRecord, tables: LedgerTables) -> list[Action]:
    """Return the actions that close a batch: checkpoints, batch record, counters, and the batch's entries, which must not exist.

    Checkpoints move from pending to idle at `end`. They come first, and the redriven entries come last. Raise AnalyticsError if the
    transaction is too large, and InconsistentState if a redrive names a record twice.
    """
    require_distinct_redrives(record)
    batch, ledger, moves = record.batch, tables.ledger, checkpoint_changes(record)
    actions = [
        *(_close(range_, batch.id, moves.pop(range_.topic_partition, OutcomeCounts()), ledger) for range_ in batch.ranges),
        *(_add_totals(topic_partition, move, ledger) for topic_partition, move in moves.items()),
        *(_put(ledger, item, _ABSENT) for item in range_items(record)),
        _put(ledger, batch_record_item(record), _ABSENT),
        {"Delete": {"TableName": ledger, "Key": keys.pending_key(batch.id), "ConditionExpression": _PRESENT}},
        _add(tables.aggregates, keys.totals_key(batch.lane), counter_increments(record)),
    ]
    for hour, counts in hourly_increments(record).items():
        actions.append(_add(tables.aggregates, keys.hourly_key(hour, batch.lane), counts))
        actions.append(_put(ledger, keys.hour_key(hour, batch.id)))
    actions += [_put(ledger, item, _ABSENT) for item in redriven_items(record)]
    return _require_fitting(batch, actions)


def entry_items(record: BatchRecord) -> list[Item]:
    """Return the entries that lead to the record of a closed batch: of its ranges, its hours and its redriven records."""
    hours = [keys.hour_key(hour, record.batch.id) for hour in hourly_increments(record)]
    return [*range_items(record), *hours, *redriven_items(record)]


def max_close_actions(batch: Batch, hours: int) -> int:
    """Return the most actions that closing the batch can take if its events lie in this many hours: all of them stored."""
    redriven_partitions = {source.topic_partition for source in batch.redriven_sources}
    return 2 * len(batch.ranges) + 2 * hours + 3 + len(redriven_partitions) + len(batch.redriven_sources)


def unclosable_reason(batch: Batch, hours: int) -> str | None:
    """Return why one transaction could not close the batch if its events lie in this many hours. None: it can."""
    if (actions := max_close_actions(batch, hours)) <= MAX_TRANSACT_ACTIONS:
        return None
    return f"closing it may take {actions} actions of the {MAX_TRANSACT_ACTIONS} that one ledger transaction holds"


def open_topic_action(topic: TopicState, table: str) -> Action:
    """Put a topic's state: incarnation 0 if the topic is absent, a later one over the incarnation before it."""
    if topic.incarnation == 0:
        return _put(table, topic_item(topic), _ABSENT)
    put = _put(table, topic_item(topic), "#incarnation = :before")["Put"]
    before = {":before": attribute(topic.incarnation - 1)}
    return {"Put": put | {"ExpressionAttributeNames": {"#incarnation": "incarnation"}, "ExpressionAttributeValues": before}}


def platform_id_action(platform_id: PlatformId, table: str) -> Action:
    """Put the platform id if it is absent, or over the same id with the same bucket id or none. A refusal returns the stored one."""
    same = "#id = :id AND (attribute_not_exists(#bucket_id) OR #bucket_id = :bucket_id)"
    put = _put(table, platform_id_item(platform_id), f"{_ABSENT} OR ({same})")["Put"]
    terms = {
        "ExpressionAttributeNames": {"#id": "id", "#bucket_id": "bucket_id"},
        "ExpressionAttributeValues": {":id": attribute(platform_id.id), ":bucket_id": attribute(platform_id.bucket_id or "")},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    return {"Put": put | terms}


def mark_staged_action(batch_id: str, digest: str, table: str) -> Action:
    """Record the digest in the pending entry, if the entry exists and no other digest was recorded. A refusal returns the entry."""
    update = _update(
        table,
        keys.pending_key(batch_id),
        "SET #staged = :digest",
        {"#staged": "staged", ":digest": digest},
        f"{_PRESENT} AND (attribute_not_exists(#staged) OR #staged = :digest)",
    )["Update"]
    return {"Update": update | {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}


def revision_action(revision: ArchiveRevision, table: str) -> Action:
    """Put the next revision of an hour, unless its number exists. A refusal returns the stored one.

    Raise AnalyticsError if the item is too large.
    """
    item = revision_item(revision)
    if (size := _stored_bytes(item)) > MAX_ITEM_BYTES:
        raise AnalyticsError(
            f"hour {revision.hour}: revision {revision.number} of {len(revision.batches)} batches takes {size} bytes in the ledger, "
            f"expected at most {MAX_ITEM_BYTES}. Nothing was changed; its parts stay readable. "
            "Write fewer, larger batches: raise BATCH_MAX_WAIT or TAIL_INTERVAL."
        )
    return {"Put": _put(table, item, _ABSENT)["Put"] | {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}


def dead_letter_expiry_action(expiry: DeadLetterExpiry, table: str) -> Action:
    """Put the time up to which dead letters expired, if it is later than the stored one. A refusal returns the stored one."""
    put = _put(table, dead_letter_expiry_item(expiry), f"{_ABSENT} OR #expired_through < :expired_through")["Put"]
    terms = {
        "ExpressionAttributeNames": {"#expired_through": "expired_through"},
        "ExpressionAttributeValues": {":expired_through": attribute(iso_milliseconds(expiry.expired_through))},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    return {"Put": put | terms}


def adjustment_action(adjustment: Adjustment, table: str) -> Action:
    """Put the next adjustment of a counter item, unless its number exists. A refusal returns the stored one."""
    return {"Put": _put(table, adjustment_item(adjustment), _ABSENT)["Put"] | {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}


def _begin(range_: Range, batch_id: str, table: str, *, is_new: bool) -> Action:
    update = _update(
        table,
        keys.checkpoint_key(range_.topic_partition),
        "SET #first = if_not_exists(#first, :start), #next = :start, #batch = :batch",
        {"#first": "first", "#next": "next", "#batch": "batch", ":start": range_.start, ":batch": batch_id},
        _ABSENT if is_new else "#next = :start AND attribute_not_exists(#batch)",
    )["Update"]
    return {"Update": update | {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}


def _close(range_: Range, batch_id: str, move: OutcomeCounts, table: str) -> Action:
    add_clause, terms = _add_clause(move.as_dict())
    return _update(
        table,
        keys.checkpoint_key(range_.topic_partition),
        f"SET #next = :end REMOVE #batch {add_clause}".strip(),
        {"#next": "next", "#batch": "batch", ":end": range_.end, ":batch": batch_id, **terms},
        "#batch = :batch",
    )


def _add_totals(topic_partition: TopicPartition, move: OutcomeCounts, table: str) -> Action:
    """Add to the totals only: another batch may be pending at this checkpoint, and stays pending."""
    return _update(table, keys.checkpoint_key(topic_partition), *_add_clause(move.as_dict()), _PRESENT)


def _add(table: str, key: Item, counts: Mapping[str, int]) -> Action:
    return _update(table, key, *_add_clause(counts))


def _add_clause(counts: Mapping[str, int]) -> tuple[str, dict[str, Any]]:
    """Return the `ADD` clause and its terms. Names of counters contain dots, which only placeholders allow."""
    counted = [(name, count) for name, count in counts.items() if count]
    clause = ", ".join(f"#add{number} :add{number}" for number in range(len(counted)))
    terms = {f"{sign}add{number}": pair[sign == ":"] for number, pair in enumerate(counted) for sign in "#:"}
    return (f"ADD {clause}" if clause else ""), terms


def _update(table: str, key: Item, expression: str, terms: Mapping[str, Any], condition: str | None = None) -> Action:
    """Return an update. `terms`: attribute names by `#placeholder`, values by `:placeholder`."""
    update = {
        "TableName": table,
        "Key": key,
        "UpdateExpression": expression,
        "ExpressionAttributeNames": {name: value for name, value in terms.items() if name[0] == "#"},
        "ExpressionAttributeValues": {name: attribute(value) for name, value in terms.items() if name[0] == ":"},
    }
    return {"Update": update | ({"ConditionExpression": condition} if condition else {})}


def _put(table: str, item: Item, condition: str | None = None) -> Action:
    return {"Put": {"TableName": table, "Item": item} | ({"ConditionExpression": condition} if condition else {})}


def _require_fitting(batch: Batch, actions: list[Action]) -> list[Action]:
    sizes = [_stored_bytes(action["Put"]["Item"]) for action in actions if "Put" in action]
    for unit, size, limit in (
        ("actions", len(actions), MAX_TRANSACT_ACTIONS),
        ("bytes", sum(sizes), MAX_TRANSACT_BYTES),
        ("bytes in one item", max(sizes), MAX_ITEM_BYTES),
    ):
        if size > limit:
            raise AnalyticsError(
                f"{batch.kind} batch {batch.id} of {', '.join(map(str, batch.ranges))}: its ledger transaction takes {size} {unit}, "
                f"expected at most {limit}. Nothing was changed. Smaller batches fit: use fewer ranges, hours or redriven records."
            )
    return actions


def _stored_bytes(item: Item) -> int:
    return item_size(item) + sum(len(value["B"]) for value in item.values() if "B" in value)
