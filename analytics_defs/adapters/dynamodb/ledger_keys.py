"""Where the ledger keeps what. Two DynamoDB tables, each with the string keys `pk` and `sk`; every question is one query or
one get, strongly consistent, and nothing is ever scanned.

IngestLedger:

| pk                        | sk                       | holds                                     | answers                               |
|---------------------------|--------------------------|-------------------------------------------|---------------------------------------|
| `progress`                | `topic#<name>`           | the newest generation: id, first offsets  | the snapshot, with the next four     |
| `progress`                | `head#<topic-partition>` | first, next, pending batch, outcomes      |                                       |
| `progress`                | `pending#<batch id>`     | the batch as it was taken; staged or not  | also: what a batch still waits for    |
| `progress`                | `lease#<run id>`         | lane, last sign of life                   |                                       |
| `progress`                | `seal#~`                 | the ledger's id, its tables and bucket    | whether stores belong to this ledger  |
| `batches`                 | `<batch id>`             | the batch's record, never changed         | one batch, those of a day, the newest |
| `range#<topic-partition>` | `<end, 20 digits>`       | batch, start, outcomes                    | the batch that holds an offset        |
| `hour#<YYYY-MM-DDTHH>`    | `<batch id>`             | nothing: the item is the mark             | the batches that changed an hour      |
| `redriven#<topic-part…>`  | `<offset, 20 digits>`    | the batch that redrove the record         | whether a dead letter was redriven    |
| `archive#<YYYY-MM-DDTHH>` | `<revision, 20 digits>`  | an archived hour, never changed           | what an hour's archive is, and was    |
| `retention`               | `letters`                | up to which batch time they were taken    | whether a batch's dead letters are    |

EventAggregates, one item a lane, so that closing lanes never meet in one:

| pk       | sk              | holds                                  | answers                         |
|----------|-----------------|----------------------------------------|---------------------------------|
| `totals` | `lane#<lane>`   | the counters of `core.ingest.batch_accounting.counter_increments` | the totals                      |
| `hours`  | `<hour>#<lane>` | the counters of `core.ingest.batch_accounting.hourly_increments` | the counters of a span of hours |

Beside them, `#<lane>#<number, 20 digits>` behind the key of lane -2: an adjustment of the item of that lane, never changed.

Batch ids begin with their time and have one width, so they sort by time; so do hours. Offsets are padded to sort as numbers.
"""

from __future__ import annotations

from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.core.counter_adjustments import ADJUSTMENT_LANE, CounterItem
from analytics_defs.core.ledger import PLATFORM_ID_NAME
from analytics_defs.core.offsets import Range, Source, TopicPartition

PROGRESS_KEY = "progress"
BATCHES_PREFIX = "batches"
TOTALS_KEY = "totals"
HOURS_PREFIX = "hours"
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
    """All under one `pk`: it takes 1,000 write units a second, a hundred closes, and the newest are one query away."""
    return item_key(BATCHES_PREFIX, batch_id)


def range_key(each: Range) -> Item:
    """By its end: the first key above an offset is the range that holds it."""
    return item_key(range_pk(each.topic_partition), padded(each.end))


def range_pk(topic_partition: TopicPartition) -> str:
    return f"{RANGE_PREFIX}{topic_partition}"


def hour_key(hour: str, batch_id: str) -> Item:
    return item_key(hour_pk(hour), batch_id)


def hour_pk(hour: str) -> str:
    return f"hour#{hour}"


def redriven_key(source: Source) -> Item:
    return item_key(f"{REDRIVEN_PREFIX}{source.topic_partition}", padded(source.offset))


def revision_key(hour: str, number: int) -> Item:
    """Numbers follow each other: putting the next one, if absent, is how the archive moves."""
    return item_key(revision_pk(hour), padded(number))


def revision_pk(hour: str) -> str:
    return f"{REVISION_PREFIX}{hour}"


def dead_letter_expiry_key() -> Item:
    return item_key("retention", "dead-letters")


def totals_key(lane: int) -> Item:
    return item_key(TOTALS_KEY, f"{LANE_PREFIX}#{lane}")


def hourly_key(hour: str, lane: int) -> Item:
    return item_key(HOURS_PREFIX, f"{hour}#{lane}")


def counter_key(item: CounterItem) -> Item:
    return hourly_key(item.hour, item.lane) if item.hour else totals_key(item.lane)


def adjustment_key(item: CounterItem, number: int) -> Item:
    """Numbers follow each other: putting the next one, if absent, is how an item is adjusted once."""
    pk, where = (HOURS_PREFIX, item.hour) if item.hour else (TOTALS_KEY, LANE_PREFIX)
    return item_key(pk, f"{where}#{ADJUSTMENT_LANE}#{item.lane}#{padded(number)}")


def lane_of_counter_key(item: Item) -> int:
    """Of a counter item or an adjustment, the lane in which it counts."""
    return int(item["sk"]["S"].split("#")[1])


def padded(offset: int) -> str:
    return f"{offset:020d}"
