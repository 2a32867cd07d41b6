"""Counter items and their adjustments as items of EventAggregates, and back. Pure."""

from __future__ import annotations

from datetime import datetime

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.adapters.dynamodb.ledger_items import Fields, to_item
from analytics_defs.core.counter_adjustments import Adjustment, CounterItem
from analytics_defs.core.timestamps import iso_milliseconds


def parse_counter_item(fields: Fields) -> CounterItem:
    hour_or_prefix, lane = fields["sk"].split("#")
    return CounterItem(int(lane), hour_or_prefix if fields["pk"] == keys.HOURS_KEY else "")


def adjustment_item(adjustment: Adjustment) -> Item:
    """Return the item of an adjustment. Its counts are one map: `ADD` never changes it, and readers recognize an adjustment by it."""
    fields = {"counts": adjustment.counts, "batches": adjustment.batches, "made_at": iso_milliseconds(adjustment.made_at)}
    return to_item(keys.adjustment_key(adjustment.target, adjustment.number), fields)


def parse_adjustment(fields: Fields) -> Adjustment:
    hour_or_prefix, _, lane, number = fields["sk"].split("#")
    item = CounterItem(int(lane), hour_or_prefix if fields["pk"] == keys.HOURS_KEY else "")
    return Adjustment(item, int(number), fields["counts"], fields["batches"], datetime.fromisoformat(fields["made_at"]))
