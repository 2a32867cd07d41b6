"""Fast generation of the parts of a large hour. Events have the shapes and sizes of the simulated shop's."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord, OutcomeCounts
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.storage import event_parquet
from analytics_defs.core.storage.object_keys import batch_id
from analytics_defs.core.storage.staging_file import microseconds
from analytics_defs.core.timestamps import iso_milliseconds

HOUR = "2024-01-15T10"
BEGIN = datetime(2024, 1, 15, 10, tzinfo=UTC)
ROWS = 4_000
PRODUCTS, SELLERS = 50_000, 400
TYPES = ("ProductCreated", "ProductUpdated", "ProductDeleted", "LowStockWarning")
WEIGHTS = (2, 14, 1, 3)


def parts(events: int, seed: int = 0) -> Iterator[tuple[BatchRecord, bytes]]:
    """Yield record and part of closed batches of 4,000 events. Each batch has one partition, in turn."""
    rng = random.Random(seed)
    offsets = [0] * 8
    for number in range(-(-events // ROWS)):
        count = min(ROWS, events - number * ROWS)
        partition = number % len(offsets)
        start = offsets[partition]
        offsets[partition] += count
        topic_partition = TopicPartition("ProductUpdated", 0, partition)
        time = BEGIN + timedelta(hours=1, seconds=number)
        ranges = (Range(topic_partition, start, start + count),)
        batch = Batch(batch_id(time, ranges), BatchKind.INGEST, 0, time, ranges, "bench")
        rows = [_row(rng, topic_partition, start + index) for index in range(count)]
        types: dict[str, int] = {}
        for row in rows:
            types[row[1]] = types.get(row[1], 0) + 1
        yield BatchRecord(batch, time, (OutcomeCounts(stored=count),), types, {HOUR: types}, {}), _part(rows, batch, start)


def _row(rng: random.Random, topic_partition: TopicPartition, offset: int) -> tuple[str, str, int, str, str, str]:
    time = BEGIN + timedelta(microseconds=rng.randrange(3_600_000_000))
    event_id, product, kind = (
        f"{topic_partition.partition:02d}-{offset:012d}-{rng.getrandbits(64):016x}",
        rng.randrange(PRODUCTS),
        _kind(rng),
    )
    product_id, seller_id = f"product-{product:06d}", f"seller-{product % SELLERS:04d}"
    payload: dict[str, object] = {"id": event_id, "timestamp": iso_milliseconds(time), "type": kind, "version": "1.0"}
    body = {
        "id": product_id,
        "name": f"Enamel mug no. {product}, hand-made, dishwasher-safe",
        "price": rng.randrange(100, 9_999) / 100,
        "stock": rng.randrange(0, 80),
        "sellerId": seller_id,
    }
    payload |= {"product": body} if kind.endswith(("Created", "Updated")) else {"productId": product_id, "sellerId": seller_id}
    return event_id, kind, microseconds(time), product_id, seller_id, json.dumps(payload)


def _kind(rng: random.Random) -> str:
    return rng.choices(TYPES, WEIGHTS)[0]


def _part(rows: list[tuple[str, str, int, str, str, str]], batch: Batch, start: int) -> bytes:
    ids, kinds, times, products, sellers, payloads = zip(*rows, strict=True)
    [range_] = batch.ranges
    topic, partition = range_.topic_partition.topic, range_.topic_partition.partition
    count, created = len(rows), microseconds(batch.time) // 1000
    columns = [
        *(ids, kinds, times, ["1.0"] * count, products, sellers, payloads),
        *(
            [topic] * count,
            [partition] * count,
            range(start, start + count),
            [created] * count,
            [batch.id] * count,
            [created] * count,
        ),
    ]
    arrays = [
        pa.array(list(column), pa.int64() if pa.types.is_timestamp(field.type) else field.type).cast(field.type)
        for column, field in zip(columns, event_parquet.event_schema(), strict=True)
    ]
    sink = io.BytesIO()
    with event_parquet.writer(sink) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=event_parquet.event_schema()))
    return sink.getvalue()
