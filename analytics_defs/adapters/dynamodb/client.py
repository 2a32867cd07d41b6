"""The boto3 client of DynamoDB, and a short way for its transactions.

Attribute values are built by hand in the form that travels, yet botocore walks them all to serialise them: 6 of the 8 ms that a
transaction of 100 events costs this process (measured). Two of its own events take the walk out of the way, for this one operation.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

FALLBACK_REGION = "us-east-1"
"""Signs requests to an endpoint of one's own when no region is set; such servers accept any."""
_BODY = "encoded_transaction"


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoConfig:
    """Where DynamoDB is, as whom, and how long to wait."""

    endpoint: str | None = None
    """None: AWS itself, with the SDK's own chain for credentials and region."""
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    """Both only together with `endpoint`."""
    connect_timeout: timedelta = timedelta(seconds=2)
    read_timeout: timedelta = timedelta(seconds=5)
    attempts: int = 4
    """Of one request: no answer, 5xx, throttling. A server that accepts and then hangs costs so many timeouts."""
    conflict_attempts: int = 12
    """Of what is refused for the moment only: conflicts between transactions, keys left unprocessed."""
    connections: int = 16

    @property
    def describe_endpoint(self) -> str:
        return self.endpoint or f"AWS ({self.region or 'region of the environment'})"


def connect_dynamodb(config: DynamoConfig) -> DynamoDBClient:
    """A client that no request was made with yet. Thread-safe."""
    import boto3
    from botocore.config import Config

    behaviour = Config(
        connect_timeout=config.connect_timeout.total_seconds(),
        read_timeout=config.read_timeout.total_seconds(),
        max_pool_connections=config.connections,
        parameter_validation=False,
        retries={"mode": "standard", "total_max_attempts": config.attempts},
        tcp_keepalive=True,
    )
    session = boto3.session.Session()
    if config.endpoint is None:
        client = session.client("dynamodb", region_name=config.region, config=behaviour)
    else:
        client = session.client(
            "dynamodb",
            endpoint_url=config.endpoint,
            region_name=config.region or FALLBACK_REGION,
            aws_access_key_id=config.access_key,
            aws_secret_access_key=config.secret_key,
            config=behaviour,
        )
    client.meta.events.register("before-parameter-build.dynamodb.TransactWriteItems", _encode)
    client.meta.events.register("before-call.dynamodb.TransactWriteItems", _send_encoded)
    return client


def _encode(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    """Keep the body; what botocore goes on to serialise is empty."""
    context[_BODY] = json.dumps(params, separators=(",", ":"), default=_base64).encode()
    params["TransactItems"] = []


def _send_encoded(params: dict[str, Any], context: Mapping[str, Any], **_: Any) -> None:
    params["body"] = context[_BODY]


def _base64(value: bytes) -> str:
    return b64encode(value).decode()
