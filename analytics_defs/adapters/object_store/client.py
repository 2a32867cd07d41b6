"""The client of an S3 bucket: where it is, whose keys it uses, how patient it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from analytics_defs.errors import AccessDenied

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential, S3CredentialProvider, S3Store


@dataclass(frozen=True, slots=True)
class ObjectStoreKeys:
    """Credentials of an S3-compatible store of one's own."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ObjectStoreConfig:
    """Where the bucket is, and how patient the client is."""

    bucket: str
    endpoint: str | None = None
    """None: Amazon S3 itself."""
    region: str | None = None
    """None: the SDK's own, from its configuration files; us-east-1 where an endpoint is given."""
    keys: ObjectStoreKeys | None = None
    """Only with an endpoint. None: the SDK's own chain of credentials."""
    connect_timeout: timedelta = timedelta(seconds=3)
    request_timeout: timedelta = timedelta(seconds=20)
    """From the first byte sent to the last one received, so that a store that accepts and never answers is noticed."""
    max_retries: int = 5
    """Of one request, with jitter, after connection errors, 429 and 5xx; after timeouts where repeating is harmless."""
    max_backoff: timedelta = timedelta(seconds=5)
    retry_within: timedelta = timedelta(seconds=45)
    """No retry starts later than this after the first try."""
    max_in_flight: int = 32
    """Requests of `put` at the same moment, over all callers."""
    snowball: bool = False
    """Whether to find out if the store unpacks tars, when many small objects are to be put, and to use it."""


def connect_object_store(config: ObjectStoreConfig) -> S3Store:
    """Nothing is asked of the store yet."""
    from obstore.store import S3Store

    return S3Store(
        config.bucket,
        config=_s3(config),
        client_options=_client(config),
        retry_config=_retries(config),
        credential_provider=_credentials(config),
    )


def _s3(config: ObjectStoreConfig) -> S3Config:
    """Without an endpoint, what the environment says to every AWS client counts; with one, none of it."""
    if config.endpoint is None:
        return {"region": config.region} if config.region else {}
    return {
        "endpoint": config.endpoint,
        "aws_endpoint_url_s3": config.endpoint,
        "region": config.region or "us-east-1",
        "virtual_hosted_style_request": False,
    }


def _credentials(config: ObjectStoreConfig) -> S3CredentialProvider:
    """A provider in both cases: keys given directly would be joined with a session token from the environment."""
    keys = config.keys
    if keys is None:
        return _sdk_credentials(config)
    credential: S3Credential = {
        "access_key_id": keys.access_key_id,
        "secret_access_key": keys.secret_access_key,
        "token": None,
        "expires_at": None,
    }
    return lambda: credential


def _sdk_credentials(config: ObjectStoreConfig) -> S3CredentialProvider:
    """boto3's chain: environment, profiles, SSO, web identity, containers, instances."""
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session(region_name=config.region)
    if session.get_credentials() is None:
        raise AccessDenied(
            f"Amazon S3, bucket {config.bucket}: the SDK found no credentials, neither in the environment nor in profiles nor from a role. "
            "Give it some, or set MINIO_ENDPOINT for a store of your own."
        )
    return Boto3CredentialProvider(session)


def _client(config: ObjectStoreConfig) -> ClientConfig:
    return {
        "allow_http": True,
        "connect_timeout": config.connect_timeout,
        "timeout": config.request_timeout,
        "user_agent": "analytics-defs",
    }


def _retries(config: ObjectStoreConfig) -> RetryConfig:
    return {
        "max_retries": config.max_retries,
        "retry_timeout": config.retry_within,
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": config.max_backoff, "base": 2},
    }
