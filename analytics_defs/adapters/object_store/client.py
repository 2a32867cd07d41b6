"""Configuration of the client for an S3 bucket."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from analytics_defs.adapters.aws_sessions import sdk_configuration, user_session
from analytics_defs.errors import AccessDenied

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential, S3CredentialProvider, S3Store


CREDENTIAL_TTL = timedelta(minutes=10)
"""Promised lifetime of the credentials that boto3 returns: it renews them at the latest 10 minutes before their end. The client asks
again 5 minutes before this time is over, so a key is held for 5 minutes. obstore's default of 30 minutes outlives the key."""


@dataclass(frozen=True, slots=True)
class ObjectStoreKeys:
    """Credentials of an S3-compatible store."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ObjectStoreConfig:
    """Location of the bucket, timeouts, retries and limits."""

    bucket: str
    endpoint: str | None = None
    """None: Amazon S3."""
    region: str | None = None
    """None: us-east-1 if an endpoint is set, else the region in the SDK's configuration."""
    keys: ObjectStoreKeys | None = None
    """Used only with an endpoint. None: the SDK's credential chain."""
    connect_timeout: timedelta = timedelta(seconds=3)
    request_timeout: timedelta = timedelta(seconds=20)
    """Time from the first byte sent to the last byte received. It detects a store that accepts requests and never answers."""
    max_retries: int = 5
    """Retries of one request, with jitter, after connection errors, 429 and 5xx. After timeouts only if the request is idempotent."""
    max_backoff: timedelta = timedelta(seconds=5)
    retry_within: timedelta = timedelta(seconds=45)
    """Limit for the start of a retry, counted from the first attempt."""
    max_in_flight: int = 32
    """Concurrent requests of `put`, over all callers."""
    snowball: bool = False
    """Probe whether the store unpacks tars. If so, write many small objects in tars."""

    @property
    def address(self) -> str:
        """Return the address of the store and the name of the bucket."""
        return f"{self.endpoint or 'Amazon S3'}, bucket {self.bucket}"


def connect_object_store(config: ObjectStoreConfig) -> S3Store:
    """Return a client. No request is sent yet."""
    from obstore.store import S3Store

    return S3Store(
        config.bucket,
        config=_s3(config),
        client_options=_client(config),
        retry_config=_retries(config),
        credential_provider=_credentials(config),
    )


def _s3(config: ObjectStoreConfig) -> S3Config:
    """Return the S3 settings. With an endpoint, the AWS variables of the environment are overridden; without one, they apply."""
    if config.endpoint is None:
        return {"conditional_put": "etag", "region": config.region} if config.region else {"conditional_put": "etag"}
    return {
        "endpoint": config.endpoint,
        "aws_endpoint_url_s3": config.endpoint,
        "region": config.region or "us-east-1",
        "virtual_hosted_style_request": False,
        "conditional_put": "etag",
        "copy_if_not_exists": "multipart",
        "disable_tagging": False,
        "request_payer": False,
        "s3_express": False,
        "skip_signature": False,
        "unsigned_payload": False,
    }


def _credentials(config: ObjectStoreConfig) -> S3CredentialProvider:
    """Return a credential provider. Keys passed directly would be combined with a session token from the environment."""
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
    """Return boto3's credential chain: environment, profiles, SSO, web identity, containers, instances."""
    from obstore.auth.boto3 import Boto3CredentialProvider

    with sdk_configuration("S3"):
        session = user_session(config.region)
        credentials = session.get_credentials()
    if credentials is None:
        raise AccessDenied(
            f"Amazon S3, bucket {config.bucket}: the SDK found no credentials in the environment, in profiles or from a role. "
            "Configure them, or set MINIO_ENDPOINT to use another store."
        )
    return Boto3CredentialProvider(session, ttl=CREDENTIAL_TTL)


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
