"""The SDK's own files and variables: without influence on another endpoint, and one clear error for AWS itself."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analytics_defs.adapters.dynamodb.client import DynamoConfig
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.object_store.bucket import bucket_exists
from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.errors import AnalyticsError, SettingsError, Unavailable

ODD = {
    "AWS_PROFILE": "work",
    "AWS_CONFIG_FILE": "CONFIG",
    "AWS_DEFAULTS_MODE": "odd",
    "AWS_ACCOUNT_ID_ENDPOINT_MODE": "odd",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "odd",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "odd",
    "AWS_STS_REGIONAL_ENDPOINTS": "odd",
    "AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES": "odd",
    "AWS_DEFAULT_REGION": "odd region",
    "AWS_S3_EXPRESS": "odd",
    "AWS_REQUEST_PAYER": "odd",
    "AWS_UNSIGNED_PAYLOAD": "odd",
    "AWS_DISABLE_TAGGING": "odd",
    "AWS_COPY_IF_NOT_EXISTS": "odd",
    "AWS_CONDITIONAL_PUT": "odd",
}
"""A value of each variable that the SDK or obstore refuses when a client is made."""
UNUSABLE = {"AWS_CHECKSUM_ALGORITHM": "odd", "AWS_SERVER_SIDE_ENCRYPTION": "odd"}
"""Variables of obstore that a setting cannot override."""


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Yield a port on which nothing listens: the connection fails after the client was made."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def set_odd(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, value: str) -> None:
    if value == "CONFIG":
        value = str(folder / "config")
        Path(value).write_text("[default\n", encoding="utf-8")
    monkeypatch.setenv(name, value)


def clients(endpoint: str | None) -> dict[str, Callable[[], object]]:
    """Return one call for each client that reads the SDK's configuration."""
    dynamo = DynamoConfig(endpoint=endpoint, access_key="a" if endpoint else None, secret_key="b" if endpoint else None, attempts=1)
    bucket = ObjectStoreConfig("bucket", endpoint, keys=ObjectStoreKeys("a", "b") if endpoint else None, max_retries=0)
    return {
        "DynamoDB": lambda: DynamoClient(dynamo).call("list_tables", []),
        "bucket": lambda: bucket_exists(bucket),
        "objects": lambda: S3ObjectStore(bucket).get("a"),
    }


@pytest.mark.parametrize("client", ["DynamoDB", "bucket", "objects"])
@pytest.mark.parametrize("name", ODD)
def test_with_an_endpoint_the_sdks_configuration_has_no_influence(
    name: str, client: str, closed_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_odd(monkeypatch, tmp_path, name, ODD[name])
    with pytest.raises(Unavailable):
        clients(f"http://127.0.0.1:{closed_port}")[client]()


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_variable_that_cannot_be_overridden_is_a_settings_error(name: str, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, UNUSABLE[name])
    with pytest.raises(SettingsError, match=r"odd.*AWS_"):
        clients(f"http://127.0.0.1:{closed_port}")["objects"]()


@pytest.mark.parametrize("client", ["DynamoDB", "bucket", "objects"])
@pytest.mark.parametrize(("name", "named"), [("AWS_PROFILE", "profile.*work"), ("AWS_CONFIG_FILE", "parse config file")])
def test_on_aws_a_broken_configuration_is_one_sentence_and_no_outage(
    name: str, named: str, client: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    set_odd(monkeypatch, tmp_path, name, ODD[name])
    with pytest.raises(AnalyticsError, match=named) as raised:
        clients(None)[client]()
    assert isinstance(raised.value, SettingsError)
    assert not raised.value.retryable
    assert "\n" not in str(raised.value)
