"""Counter items and their adjustments as items of the aggregates, and back. Pure."""

from __future__ import annotations

from datetime import datetime

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.adapters.dynamodb.ledger_items import Fields, to_item
from analytics_defs.core.counter_adjustments import Adjustment, CounterItem
from analytics_defs.core.timestamps import iso_milliseconds


def parse_counter_item(fields: Fields) -> CounterItem:
    where, lane = fields["sk"].split("#")
    return CounterItem(int(lane), where if fields["pk"] == keys.HOURS_PREFIX else "")


def adjustment_item(adjustment: Adjustment) -> Item:
    """Its counts are one attribute: `ADD` never meets it, and readers of counters tell it by that."""
    fields = {"counts": adjustment.counts, "over": adjustment.batches, "made_at": iso_milliseconds(adjustment.made_at)}
    return to_item(keys.adjustment_key(adjustment.target, adjustment.number), fields)


def parse_adjustment(fields: Fields) -> Adjustment:
    where, _, lane, number = fields["sk"].split("#")
    item = CounterItem(int(lane), where if fields["pk"] == keys.HOURS_PREFIX else "")
    return Adjustment(item, int(number), fields["counts"], fields["over"], datetime.fromisoformat(fields["made_at"]))
