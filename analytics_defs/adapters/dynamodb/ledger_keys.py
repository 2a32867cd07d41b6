"""Keys of the ledger's items, in two DynamoDB tables with the string keys `pk` and `sk`.

Every question is one query or one get, strongly consistent. Nothing is ever scanned.

IngestLedger:

| pk                        | sk                         | holds                                | answers                            |
|---------------------------|----------------------------|--------------------------------------|------------------------------------|
| `progress`                | `topic#<name>`             | newest incarnation: id, starts       | the snapshot, with the next four   |
| `progress`                | `checkpoint#<topic-part…>` | first, next, pending batch, outcomes |                                    |
| `progress`                | `pending#<batch id>`       | the batch as begun, staged or not    | also: work left in a batch         |
| `progress`                | `lease#<run id>`           | lane if any, time of last renewal    |                                    |
| `progress`                | `platform-id#~`            | platform id, its tables and buckets  | whether stores belong together     |
| `batches`                 | `<batch id>`               | the batch record, never changed      | one batch, a day's, the newest     |
| `range#<topic-partition>` | `<end, 20 digits>`         | batch, start, outcomes               | the batch of an offset             |
| `hour#<YYYY-MM-DDTHH>`    | `<batch id>`               | nothing, its existence counts        | the batches that changed an hour   |
| `redriven#<topic-part…>`  | `<offset, 20 digits>`      | the batch that redrove the record    | whether a dead letter was redriven |
| `archive#<YYYY-MM-DDTHH>` | `<revision, 20 digits>`    | an archive revision, never changed   | an hour's archives                 |
| `retention`               | `dead-letters`             | time up to which they expired        | whether dead letters expired       |

EventAggregates, one item for each lane, so that closing lanes never write the same item:

| pk       | sk              | holds                                                             | answers                     |
|----------|-----------------|-------------------------------------------------------------------|-----------------------------|
| `totals` | `lane#<lane>`   | the counters of `core.ingest.batch_accounting.counter_increments` | the totals                  |
| `hours`  | `<hour>#<lane>` | the counters of `core.ingest.batch_accounting.hourly_increments`  | the counters of some hours  |

Adjustments are stored beside them, in lane -2. Their `sk` continues with `#<lane>#<number, 20 digits>` of the adjusted item. An
adjustment is never changed.

Batch ids begin with their time and have one width, so they sort by time, and so do hours. Offsets are padded to sort as numbers.
"""

from __future__ import annotations

from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.core.counter_adjustments import ADJUSTMENT_LANE, CounterItem
from analytics_defs.core.ledger import PLATFORM_ID_NAME
from analytics_defs.core.offsets import Range, Source, TopicPartition

PROGRESS_KEY = "progress"
BATCHES_KEY = "batches"
TOTALS_KEY = "totals"
HOURS_KEY = "hours"
RANGE_PREFIX = "range#"
REDRIVEN_PREFIX = "redriven#"
REVISION_PREFIX = "archive#"
LANE_PREFIX = "lane"

TOPIC, CHECKPOINT, PENDING, LEASE, PLATFORM_ID = "topic#", "checkpoint#", "pending#", "lease#", "platform-id#"


def item_key(pk: str, sk: str) -> Item:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def topic_state_key(topic: str) -> Item:
    return item_key(PROGRESS_KEY, f"{TOPIC}{topic}")


def checkpoint_key(topic_partition: TopicPartition) -> Item:
    return item_key(PROGRESS_KEY, f"{CHECKPOINT}{topic_partition}")


def pending_key(batch_id: str) -> Item:
    return item_key(PROGRESS_KEY, f"{PENDING}{batch_id}")


def lease_key(run_id: str) -> Item:
    return item_key(PROGRESS_KEY, f"{LEASE}{run_id}")


def platform_id_key() -> Item:
    return item_key(PROGRESS_KEY, f"{PLATFORM_ID}{PLATFORM_ID_NAME}")


def record_key(batch_id: str) -> Item:
    """Return the key of a batch record. All share one `pk`: it allows 1,000 write units a second, about a hundred closes."""
    return item_key(BATCHES_KEY, batch_id)


def range_key(range_: Range) -> Item:
    """Return the key of a closed range. It holds the end: the first key above an offset is the range that contains it."""
    return item_key(range_pk(range_.topic_partition), padded(range_.end))


def range_pk(topic_partition: TopicPartition) -> str:
    return f"{RANGE_PREFIX}{topic_partition}"


def hour_key(hour: str, batch_id: str) -> Item:
    return item_key(hour_pk(hour), batch_id)


def hour_pk(hour: str) -> str:
    return f"hour#{hour}"


def redriven_key(source: Source) -> Item:
    return item_key(f"{REDRIVEN_PREFIX}{source.topic_partition}", padded(source.offset))


def revision_key(hour: str, number: int) -> Item:
    """Return the key of a revision. Numbers are consecutive: putting the next one, if absent, publishes a new archive."""
    return item_key(revision_pk(hour), padded(number))


def revision_pk(hour: str) -> str:
    return f"{REVISION_PREFIX}{hour}"


def dead_letter_expiry_key() -> Item:
    return item_key("retention", "dead-letters")


def totals_key(lane: int) -> Item:
    return item_key(TOTALS_KEY, f"{LANE_PREFIX}#{lane}")


def hourly_key(hour: str, lane: int) -> Item:
    return item_key(HOURS_KEY, f"{hour}#{lane}")


def counter_key(item: CounterItem) -> Item:
    return hourly_key(item.hour, item.lane) if item.hour else totals_key(item.lane)


def adjustment_key(item: CounterItem, number: int) -> Item:
    """Return the key of an adjustment. Numbers are consecutive: putting the next one, if absent, adjusts an item exactly once."""
    pk, hour_or_prefix = (HOURS_KEY, item.hour) if item.hour else (TOTALS_KEY, LANE_PREFIX)
    return item_key(pk, f"{hour_or_prefix}#{ADJUSTMENT_LANE}#{item.lane}#{padded(number)}")


def lane_of_counter_key(item: Item) -> int:
    """Return the lane of a counter item, or ADJUSTMENT_LANE for an adjustment."""
    return int(item["sk"]["S"].split("#")[1])


def padded(offset: int) -> str:
    return f"{offset:020d}"
