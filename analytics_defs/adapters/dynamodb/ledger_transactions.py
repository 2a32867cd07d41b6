"""The ledger's conditional writes as DynamoDB requests. Pure: all that a take or a close changes is one transaction.

An action is one entry of `TransactWriteItems`. `adapters.dynamodb.ledger_keys` says what lies where.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    range_item,
    to_item,
    topic_item,
)
from analytics_defs.core.counter_adjustments import Adjustment
from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ingest.batch_accounting import checkpoint_changes, counter_increments, hourly_increments, require_distinct_redrives
from analytics_defs.core.ledger import Batch, BatchRecord, ClosedRange, OutcomeCounts, PlatformId, TopicState
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import AnalyticsError

Action: TypeAlias = dict[str, dict[str, Any]]

_ABSENT = "attribute_not_exists(pk)"
_PRESENT = "attribute_exists(pk)"


@dataclass(frozen=True, slots=True)
class LedgerTables:
    ledger: str
    aggregates: str


def begin_batch_actions(batch: Batch, tables: LedgerTables) -> list[Action]:
    """Heads from idle at `start`, or from not being there, to pending; the batch's entry. Raises AnalyticsError where it is too large."""
    heads = [_take(each, batch.id, tables.ledger) for each in batch.ranges]
    return _fitting(batch, [*heads, _put(tables.ledger, pending_item(batch), _ABSENT)])


def close_batch_actions(record: BatchRecord, tables: LedgerTables) -> list[Action]:
    """Heads from pending to idle at `end`, their totals, the records, the counters, the marks.

    The heads come first, the redrive marks last. Raises AnalyticsError where it is too large, Contradiction where two marks have one key.
    """
    require_distinct_redrives(record)
    batch, ledger, moves = record.batch, tables.ledger, checkpoint_changes(record)
    ranges = [ClosedRange(each, batch.id, tally) for each, tally in zip(batch.ranges, record.tallies, strict=True)]
    actions = [
        *(_close(each, batch.id, moves.pop(each.topic_partition, OutcomeCounts()), ledger) for each in batch.ranges),
        *(_move(topic_partition, move, ledger) for topic_partition, move in moves.items()),
        *(_put(ledger, range_item(each)) for each in ranges),
        _put(ledger, batch_record_item(record), _ABSENT),
        {"Delete": {"TableName": ledger, "Key": keys.pending_key(batch.id), "ConditionExpression": _PRESENT}},
        _add(tables.aggregates, keys.totals_key(batch.lane), counter_increments(record)),
    ]
    for hour, counts in hourly_increments(record).items():
        actions.append(_add(tables.aggregates, keys.hourly_key(hour, batch.lane), counts))
        actions.append(_put(ledger, keys.hour_key(hour, batch.id)))
    actions += [_put(ledger, to_item(keys.redriven_key(each.source), {"batch": batch.id}), _ABSENT) for each in record.redriven]
    return _fitting(batch, actions)


def max_close_actions(batch: Batch, hours: int) -> int:
    """How many actions closing the batch takes at most, when its events lie in so many hours: every one of them may be stored."""
    moved = {each.topic_partition for each in batch.redriven_sources}
    return 2 * len(batch.ranges) + 2 * hours + 3 + len(moved) + len(batch.redriven_sources)


def unclosable_reason(batch: Batch, hours: int) -> str | None:
    """Return why one transaction could not close the batch if its events lie in this many hours. None: it can."""
    if (actions := max_close_actions(batch, hours)) <= MAX_TRANSACT_ACTIONS:
        return None
    return f"closing it may take {actions} actions of the {MAX_TRANSACT_ACTIONS} that one ledger transaction holds"


def open_topic_action(topic: TopicState, table: str) -> Action:
    """A topic's state: the first generation over nothing, a later one over the one before it."""
    if topic.incarnation == 0:
        return _put(table, topic_item(topic), _ABSENT)
    put = _put(table, topic_item(topic), "#generation = :before")["Put"]
    before = {":before": attribute(topic.incarnation - 1)}
    return {"Put": put | {"ExpressionAttributeNames": {"#generation": "generation"}, "ExpressionAttributeValues": before}}


def platform_id_action(seal: PlatformId, table: str) -> Action:
    """The seal, or its mark on the one that is there without: a refusal shows the one that counts."""
    put = _put(table, platform_id_item(seal), f"{_ABSENT} OR (#id = :id AND attribute_not_exists(#mark))")["Put"]
    terms = {
        "ExpressionAttributeNames": {"#id": "id", "#mark": "mark"},
        "ExpressionAttributeValues": {":id": attribute(seal.id)},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    return {"Put": put | terms}


def mark_staged_action(batch_id: str, digest: str, table: str) -> Action:
    """The mark on the pending entry, as long as that is there and no other digest was noted. A refusal shows the entry."""
    update = _update(
        table,
        keys.pending_key(batch_id),
        "SET #staged = :digest",
        {"#staged": "staged", ":digest": digest},
        f"{_PRESENT} AND (attribute_not_exists(#staged) OR #staged = :digest)",
    )["Update"]
    return {"Update": update | {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}


def revision_action(revision: ArchiveRevision, table: str) -> Action:
    """The next revision of an hour, unless its number is taken: a refusal shows who has it. Raises AnalyticsError where it is too large."""
    item = revision_item(revision)
    if (size := _stored_bytes(item)) > MAX_ITEM_BYTES:
        raise AnalyticsError(
            f"hour {revision.hour}: revision {revision.number} of {len(revision.batches)} batches takes {size} bytes in the ledger, "
            f"expected at most {MAX_ITEM_BYTES}. Nothing was changed; its parts stay readable. "
            "Larger batches make fewer: BATCH_MAX_WAIT, TAIL_INTERVAL."
        )
    return {"Put": _put(table, item, _ABSENT)["Put"] | {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}


def dead_letter_expiry_action(taken: DeadLetterExpiry, table: str) -> Action:
    """Forward only: a refusal shows what is noted."""
    put = _put(table, dead_letter_expiry_item(taken), f"{_ABSENT} OR #through < :through")["Put"]
    terms = {
        "ExpressionAttributeNames": {"#through": "through"},
        "ExpressionAttributeValues": {":through": attribute(iso_milliseconds(taken.expired_through))},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    return {"Put": put | terms}


def adjustment_action(adjustment: Adjustment, table: str) -> Action:
    """The next adjustment of a counter item, unless its number is taken: a refusal shows who has it."""
    return {"Put": _put(table, adjustment_item(adjustment), _ABSENT)["Put"] | {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}


def _take(each: Range, batch_id: str, table: str) -> Action:
    return _update(
        table,
        keys.checkpoint_key(each.topic_partition),
        "SET #first = if_not_exists(#first, :start), #next = :start, #batch = :batch",
        {"#first": "first", "#next": "next", "#batch": "batch", ":start": each.start, ":batch": batch_id},
        f"{_ABSENT} OR (#next = :start AND attribute_not_exists(#batch))",
    )


def _close(each: Range, batch_id: str, move: OutcomeCounts, table: str) -> Action:
    adding, terms = _adds(move.as_dict())
    return _update(
        table,
        keys.checkpoint_key(each.topic_partition),
        f"SET #next = :end REMOVE #batch {adding}".strip(),
        {"#next": "next", "#batch": "batch", ":end": each.end, ":batch": batch_id, **terms},
        "#batch = :batch",
    )


def _move(topic_partition: TopicPartition, move: OutcomeCounts, table: str) -> Action:
    """Only totals: the head may be pending another batch meanwhile, and stays so."""
    return _update(table, keys.checkpoint_key(topic_partition), *_adds(move.as_dict()), _PRESENT)


def _add(table: str, key: Item, counts: Mapping[str, int]) -> Action:
    return _update(table, key, *_adds(counts))


def _adds(counts: Mapping[str, int]) -> tuple[str, dict[str, Any]]:
    """The `ADD` clause and its terms. Names of counters hold dots, which only placeholders may stand for."""
    counted = [(name, count) for name, count in counts.items() if count]
    clause = ", ".join(f"#add{number} :add{number}" for number in range(len(counted)))
    terms = {f"{sign}add{number}": pair[sign == ":"] for number, pair in enumerate(counted) for sign in "#:"}
    return (f"ADD {clause}" if clause else ""), terms


def _update(table: str, key: Item, expression: str, terms: Mapping[str, Any], condition: str | None = None) -> Action:
    """`terms`: names of attributes by `#placeholder`, values by `:placeholder`."""
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


def _fitting(batch: Batch, actions: list[Action]) -> list[Action]:
    sizes = [_stored_bytes(action["Put"]["Item"]) for action in actions if "Put" in action]
    for what, found, limit in (
        ("actions", len(actions), MAX_TRANSACT_ACTIONS),
        ("bytes", sum(sizes), MAX_TRANSACT_BYTES),
        ("bytes in one item", max(sizes), MAX_ITEM_BYTES),
    ):
        if found > limit:
            raise AnalyticsError(
                f"{batch.kind} batch {batch.id} of {', '.join(map(str, batch.ranges))}: its ledger transaction takes {found} {what}, "
                f"expected at most {limit}. Nothing was changed. Smaller batches fit: fewer ranges, hours or redriven records in one."
            )
    return actions


def _stored_bytes(item: Item) -> int:
    return item_size(item) + sum(len(value["B"]) for value in item.values() if "B" in value)
