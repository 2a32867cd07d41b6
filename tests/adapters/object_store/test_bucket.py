"""Lookup and creation of the bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from analytics_defs.adapters.object_store.bucket import bucket_exists, create_bucket
from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.errors import AccessDenied, AnalyticsError, SettingsError, Unavailable
from tests.adapters.object_store.scripted_s3 import Answer, scripted_s3
from tests.contracts.object_store_fixtures import moto_endpoint, s3_client


@pytest.fixture
def config() -> Iterator[ObjectStoreConfig]:
    with moto_endpoint() as endpoint:
        yield ObjectStoreConfig("test-bucket", endpoint, keys=ObjectStoreKeys("fake", "fake"))


def test_a_bucket_is_created_once(config: ObjectStoreConfig) -> None:
    config = replace(config, bucket="made-once")
    assert not bucket_exists(config)
    assert [create_bucket(config), create_bucket(config)] == [True, False]
    assert bucket_exists(config)


def test_a_bucket_is_created_in_the_configured_region(config: ObjectStoreConfig) -> None:
    config = replace(config, bucket="made-elsewhere", region="eu-central-1")
    create_bucket(config)
    with s3_client(config) as s3:
        assert s3.get_bucket_location(Bucket="made-elsewhere")["LocationConstraint"] == "eu-central-1"


@pytest.mark.parametrize(("answer", "expected"), [(Answer(403), AccessDenied), (Answer(503), Unavailable), (Answer(400), Unavailable)])
def test_a_refused_request_is_not_a_missing_bucket(answer: Answer, expected: type[AnalyticsError]) -> None:
    with scripted_s3(lambda _: answer) as s3:
        config = ObjectStoreConfig("test-bucket", s3.endpoint, keys=ObjectStoreKeys("user", "s3cr3t"), max_retries=0)
        with pytest.raises(expected, match="bucket test-bucket") as raised:
            create_bucket(config)
        assert "s3cr3t" not in f"{raised.value}{raised.value.__cause__}"


def test_a_store_that_is_down_is_unavailable_and_named() -> None:
    config = ObjectStoreConfig("test-bucket", "http://127.0.0.1:1", keys=ObjectStoreKeys("user", "s3cr3t"), max_retries=0)
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1, bucket test-bucket: looking up the bucket failed"):
        bucket_exists(config)


def test_a_bucket_in_another_region_is_a_wrong_setting_and_the_region_is_named() -> None:
    with scripted_s3(lambda _: Answer(301, headers={"x-amz-bucket-region": "eu-west-1"})) as s3:
        config = ObjectStoreConfig("test-bucket", s3.endpoint, keys=ObjectStoreKeys("user", "s3cr3t"), max_retries=0)
        with pytest.raises(SettingsError, match="the bucket is in eu-west-1, expected AWS_DEFAULT_REGION=eu-west-1") as raised:
            bucket_exists(config)
    assert not raised.value.retryable
