"""The content of the servers, read with the clients of their vendors. Nothing here uses the adapters of the platform."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

    from analytics_defs.config import Settings

TIMEOUT_SECONDS = 20.0
_CONCURRENCY = 8
_quiet = logging.getLogger("analytics.tests.kafka")
_REQUIRED = ("KAFKA_BROKERS", "DYNAMO_ENDPOINT", "MINIO_ENDPOINT")


def require_servers() -> None:
    """Fail with a one-line message if the environment does not name all servers."""
    missing = [name for name in _REQUIRED if not os.environ.get(name)]
    assert not missing, f"{', '.join(missing)} not set: tests marked `real` need real servers. Run `make test-real`."


@dataclass(frozen=True, slots=True)
class Object:
    """An object of the bucket with its body and metadata."""

    body: bytes
    content_type: str
    metadata: Mapping[str, str]
    """Names in lower case, as S3 stores them."""


@dataclass(frozen=True, slots=True)
class Written:
    """A record to produce."""

    topic: str
    partition: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int = 0
    """0: now."""


# Kafka.


@cache
def admin() -> AdminClient:
    require_servers()
    return AdminClient({"bootstrap.servers": os.environ["KAFKA_BROKERS"]}, logger=_quiet)


@cache
def _producer() -> Producer:
    require_servers()
    settings = {
        "bootstrap.servers": os.environ["KAFKA_BROKERS"],
        "linger.ms": 5,
        "enable.idempotence": True,
        "max.in.flight": 1,
        "logger": _quiet,
    }
    return Producer(settings)


@contextmanager
def topics(*partitions: int) -> Iterator[tuple[str, ...]]:
    """Create a topic for each number of partitions. Yield their names in this order, and delete the topics after the block.

    Any number is accepted as timestamp, as by default before Kafka 4.0.
    """
    suffix, config = uuid.uuid4().hex[:10], {"message.timestamp.after.max.ms": str(2**63 - 1)}
    new = [NewTopic(f"real-{suffix}-{number}", count, 1, config=config) for number, count in enumerate(partitions)]
    for future in admin().create_topics(new, operation_timeout=TIMEOUT_SECONDS).values():
        future.result(TIMEOUT_SECONDS)
    names = tuple(topic.topic for topic in new)
    try:
        yield names
    finally:
        remove_topics(names)


def remove_topics(names: Sequence[str]) -> None:
    for future in admin().delete_topics(list(names), operation_timeout=TIMEOUT_SECONDS).values():
        future.result(TIMEOUT_SECONDS)


def produce(records: Sequence[Written]) -> None:
    """Produce the records, in this order within a partition. All are in the log when this returns."""
    refused: list[KafkaError] = []
    for record in records:
        _producer().produce(
            record.topic,
            record.value,
            record.key,
            record.partition,
            timestamp=record.timestamp_ms,
            headers=list(record.headers),
            on_delivery=lambda error, _: refused.append(error) if error else None,
        )
    assert not _producer().flush(TIMEOUT_SECONDS)
    assert not refused, refused[0]


def group_offsets(group: str, names: Sequence[str]) -> dict[str, int | None]:
    """Return the committed offset by `topic/partition`, None if the group has no offset."""
    topics_by_name = admin().list_topics(timeout=TIMEOUT_SECONDS).topics
    partitions = [TopicPartition(name, number) for name in names for number in topics_by_name[name].partitions]
    request = ConsumerGroupTopicPartitions(group, partitions)
    response = admin().list_consumer_group_offsets([request])[group].result(TIMEOUT_SECONDS)
    return {
        f"{committed.topic}/{committed.partition}": committed.offset if committed.offset >= 0 else None
        for committed in response.topic_partitions
    }


def remove_group(group: str) -> None:
    for future in admin().delete_consumer_groups([group]).values():
        future.exception(TIMEOUT_SECONDS)  # the group exists only if an offset was committed


# DynamoDB.


@cache
def dynamo() -> DynamoDBClient:
    require_servers()
    return boto3.client(
        "dynamodb",
        endpoint_url=os.environ["DYNAMO_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID", "fake"),
        aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY", "fake"),
    )


def items(table: str) -> list[dict[str, Any]]:
    """Return every item in DynamoDB's wire format."""
    pages = dynamo().get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    return [item for page in pages for item in page["Items"]]


def item(table: str, event_id: str) -> dict[str, Any] | None:
    """Return the item of RecentEvents with this id in DynamoDB's wire format."""
    response = dynamo().get_item(TableName=table, Key={"id": {"S": event_id}}, ConsistentRead=True)
    return response.get("Item")


def remove_tables(settings: Settings) -> None:
    for table in (settings.recent_events_table_name, settings.ledger_table_name, settings.aggregates_table_name):
        try:
            dynamo().delete_table(TableName=table)
        except dynamo().exceptions.ResourceNotFoundException:
            pass  # the setup failed before it created this table


# The object store.


@cache
def s3() -> S3Client:
    require_servers()
    return boto3.client(
        "s3",
        endpoint_url=os.environ["MINIO_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=os.environ.get("MINIO_ACCESS_KEY", "minio"),
        aws_secret_access_key=os.environ.get("MINIO_SECRET_KEY", "minio123"),
        config=Config(max_pool_connections=_CONCURRENCY, s3={"addressing_style": "path"}),
    )


def keys(bucket: str, prefix: str = "") -> list[str]:
    pages = s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def get(bucket: str, key: str) -> Object:
    response = s3().get_object(Bucket=bucket, Key=key)
    with response["Body"] as body:
        return Object(body.read(), response["ContentType"], {name.lower(): value for name, value in response["Metadata"].items()})


def objects(bucket: str, prefix: str = "") -> dict[str, Object]:
    """Return every object below the prefix, by key."""
    names = keys(bucket, prefix)
    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        return dict(zip(names, pool.map(lambda key: get(bucket, key), names), strict=True))


def remove_bucket(bucket: str) -> None:
    try:
        names = keys(bucket)
        for start in range(0, len(names), 1000):
            s3().delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in names[start : start + 1000]]})
        s3().delete_bucket(Bucket=bucket)
    except s3().exceptions.NoSuchBucket:
        pass  # the setup failed before it created the bucket
