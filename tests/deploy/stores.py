"""Unique names for everything that `analytics setup` creates on the real servers, deleted after the test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
import pytest
from confluent_kafka.admin import AdminClient

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

ENDPOINTS = (
    "KAFKA_BROKERS",
    "DYNAMO_ENDPOINT",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MINIO_ENDPOINT",
    "MINIO_ACCESS_KEY",
    "MINIO_SECRET_KEY",
)


def endpoints() -> dict[str, str]:
    """Return the addresses of the real servers from the environment. Fail the test if one is missing."""
    missing = [name for name in ENDPOINTS if not os.environ.get(name)]
    if missing:
        pytest.fail(f"{', '.join(missing)} not set: tests marked `real` need real servers. Run `make test-real`.", pytrace=False)
    return {name: os.environ[name] for name in ENDPOINTS}


@contextmanager
def unique_names(servers: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield settings with unique names of topics, group, tables and bucket. Delete all of them after the block."""
    suffix = uuid.uuid4().hex[:12]
    names = {
        "KAFKA_TOPICS": f"deploy-a-{suffix},deploy-b-{suffix}",
        "KAFKA_GROUP_ID": f"deploy-{suffix}",
        "RECENT_EVENTS_TABLE_NAME": f"recent-{suffix}",
        "LEDGER_TABLE_NAME": f"ledger-{suffix}",
        "AGGREGATES_TABLE_NAME": f"aggregates-{suffix}",
        "ARCHIVE_BUCKET_NAME": f"deploy-{suffix}",
    }
    try:
        yield names
    finally:
        _remove(servers, names)


def keys(servers: dict[str, str], bucket: str, prefix: str) -> list[str]:
    """Return the keys of all objects under the prefix."""
    s3 = _s3(servers)
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    finally:
        s3.close()


def _remove(servers: dict[str, str], names: dict[str, str]) -> None:
    """Delete what exists. A test that failed early has created less."""
    _remove_topics(AdminClient({"bootstrap.servers": servers["KAFKA_BROKERS"], "log_level": 0}), names["KAFKA_TOPICS"].split(","))
    dynamo = _dynamo(servers)
    for table in [name for setting, name in names.items() if setting.endswith("_TABLE_NAME")]:
        if table in dynamo.list_tables(ExclusiveStartTableName=table[:-1])["TableNames"]:
            dynamo.delete_table(TableName=table)
    dynamo.close()
    s3, bucket = _s3(servers), names["ARCHIVE_BUCKET_NAME"]
    if bucket in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]:
        for chunk in _batched(keys(servers, bucket, ""), 1_000):
            s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in chunk]})
        s3.delete_bucket(Bucket=bucket)
    s3.close()


def _batched(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _remove_topics(kafka: AdminClient, names: list[str]) -> None:
    existing = [name for name in names if name in kafka.list_topics(timeout=10).topics]
    for future in (kafka.delete_topics(existing) if existing else {}).values():
        future.result(10)


def _dynamo(servers: dict[str, str]) -> DynamoDBClient:
    return boto3.client(
        "dynamodb",
        endpoint_url=servers["DYNAMO_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=servers["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=servers["AWS_SECRET_ACCESS_KEY"],
    )


def _s3(servers: dict[str, str]) -> S3Client:
    return boto3.client(
        "s3",
        endpoint_url=servers["MINIO_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=servers["MINIO_ACCESS_KEY"],
        aws_secret_access_key=servers["MINIO_SECRET_KEY"],
    )
