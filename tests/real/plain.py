"""What the servers hold, seen with plain clients: nothing here goes through the platform's own adapters."""

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

PATIENCE_SECONDS = 20.0
_AT_ONCE = 8
_quiet = logging.getLogger("analytics.tests.kafka")
_NEEDED = ("KAFKA_BROKERS", "DYNAMO_ENDPOINT", "MINIO_ENDPOINT")


def require_servers() -> None:
    """Fails, in one line, where the environment does not name all servers."""
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    assert not missing, f"{', '.join(missing)} not set: tests marked `real` need real servers. Run `make test-real`."


@dataclass(frozen=True, slots=True)
class Object:
    """An object of the bucket, whole."""

    body: bytes
    content_type: str
    metadata: Mapping[str, str]
    """Names in lower case, as S3 keeps them."""


@dataclass(frozen=True, slots=True)
class Written:
    """A record to produce."""

    topic: str
    partition: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


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
    """Topics of these numbers of partitions, in the order of their names, gone afterwards."""
    suffix = uuid.uuid4().hex[:10]
    new = [NewTopic(f"real-{suffix}-{number}", each, 1) for number, each in enumerate(partitions)]
    for future in admin().create_topics(new, operation_timeout=PATIENCE_SECONDS).values():
        future.result(PATIENCE_SECONDS)
    names = tuple(each.topic for each in new)
    try:
        yield names
    finally:
        remove_topics(names)


def remove_topics(names: Sequence[str]) -> None:
    for future in admin().delete_topics(list(names), operation_timeout=PATIENCE_SECONDS).values():
        future.result(PATIENCE_SECONDS)


def produce(records: Sequence[Written]) -> None:
    """In this order within a partition. All are there when this returns."""
    refused: list[KafkaError] = []
    for each in records:
        _producer().produce(
            each.topic,
            each.value,
            each.key,
            each.partition,
            headers=list(each.headers),
            on_delivery=lambda error, _: refused.append(error) if error else None,
        )
    assert not _producer().flush(PATIENCE_SECONDS)
    assert not refused, refused[0]


def group_offsets(group: str, names: Sequence[str]) -> dict[str, int | None]:
    """By `topic/partition`; None where the group has no offset."""
    found = admin().list_topics(timeout=PATIENCE_SECONDS).topics
    asked = [TopicPartition(name, number) for name in names for number in found[name].partitions]
    request = ConsumerGroupTopicPartitions(group, asked)
    answer = admin().list_consumer_group_offsets([request])[group].result(PATIENCE_SECONDS)
    return {f"{each.topic}/{each.partition}": each.offset if each.offset >= 0 else None for each in answer.topic_partitions}


def remove_group(group: str) -> None:
    for future in admin().delete_consumer_groups([group]).values():
        future.exception(PATIENCE_SECONDS)  # the group is there only where something was committed


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
    """Every item, in the form that travels."""
    pages = dynamo().get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    return [item for page in pages for item in page["Items"]]


def item(table: str, event_id: str) -> dict[str, Any] | None:
    """The recent event of this id, in the form that travels."""
    found: dict[str, Any] | None = dynamo().get_item(TableName=table, Key={"id": {"S": event_id}}, ConsistentRead=True).get("Item")
    return found


def remove_tables(settings: Settings) -> None:
    for table in (settings.recent_events_table_name, settings.ledger_table_name, settings.aggregates_table_name):
        try:
            dynamo().delete_table(TableName=table)
        except dynamo().exceptions.ResourceNotFoundException:
            pass  # setting up broke off before this one


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
        config=Config(max_pool_connections=_AT_ONCE, s3={"addressing_style": "path"}),
    )


def keys(bucket: str, prefix: str = "") -> list[str]:
    pages = s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def get(bucket: str, key: str) -> Object:
    answer = s3().get_object(Bucket=bucket, Key=key)
    with answer["Body"] as body:
        return Object(body.read(), answer["ContentType"], {name.lower(): value for name, value in answer["Metadata"].items()})


def objects(bucket: str, prefix: str = "") -> dict[str, Object]:
    """Every object below the prefix, whole."""
    found = keys(bucket, prefix)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(found, pool.map(lambda key: get(bucket, key), found), strict=True))


def remove_bucket(bucket: str) -> None:
    try:
        found = keys(bucket)
        for start in range(0, len(found), 1000):
            s3().delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in found[start : start + 1000]]})
        s3().delete_bucket(Bucket=bucket)
    except s3().exceptions.NoSuchBucket:
        pass  # setting up broke off before this one
