"""Creating the archive's bucket, which obstore has no request for. boto3 is imported on use: no micro-batch needs it for S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from analytics_defs.adapters.object_store.client import ObjectStoreConfig
from analytics_defs.errors import AccessDenied, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import BucketLocationConstraintType

_ABSENT = {"404", "NoSuchBucket"}
_DENIED = {"401", "403", "AccessDenied", "BucketAlreadyExists", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
"""`BucketAlreadyExists`: the name is taken by another account."""


def bucket_exists(config: ObjectStoreConfig) -> bool:
    """Raises AccessDenied where the bucket is somebody else's or the credentials do not fit."""
    from botocore.exceptions import ClientError

    with _s3(config, "looking for it") as client:
        try:
            client.head_bucket(Bucket=config.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] in _ABSENT:
                return False
            raise
    return True


def create_bucket(config: ObjectStoreConfig) -> bool:
    """Whether it was created now; False where it was there. Twice is once."""
    if bucket_exists(config):
        return False
    with _s3(config, "creating it") as client:
        region = cast("BucketLocationConstraintType", client.meta.region_name)
        try:
            if client.meta.region_name == "us-east-1":  # the one region that S3 refuses to hear named here
                client.create_bucket(Bucket=config.bucket)
            else:
                client.create_bucket(Bucket=config.bucket, CreateBucketConfiguration={"LocationConstraint": region})
        except client.exceptions.BucketAlreadyOwnedByYou:
            return False
    return True


@contextmanager
def _s3(config: ObjectStoreConfig, doing: str) -> Iterator[S3Client]:
    """A client for the length of the block; what it raises becomes one of our errors."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    keys = config.keys
    what = f"{config.endpoint or 'Amazon S3'}, bucket {config.bucket}: {doing} failed"
    client = boto3.client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.region or ("us-east-1" if config.endpoint else None),
        aws_access_key_id=keys.access_key_id if keys else None,
        aws_secret_access_key=keys.secret_access_key if keys else None,
        config=Config(
            connect_timeout=config.connect_timeout.total_seconds(),
            read_timeout=config.request_timeout.total_seconds(),
            retries={"mode": "standard", "total_max_attempts": config.max_retries + 1},
            s3={"addressing_style": "path"} if config.endpoint else {},
        ),
    )
    try:
        yield client
    except ClientError as error:
        code, said = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in _DENIED:
            raise AccessDenied(f"{what}: {code} {said}. Correct the credentials, their permissions, or ARCHIVE_BUCKET_NAME.") from error
        raise Unavailable(f"{what}: the store answered {code} {said}. It is safe to try again.") from error
    except NoCredentialsError as error:
        raise AccessDenied(f"{what}: the SDK found no credentials. Give it some, or set MINIO_ENDPOINT for a store of your own.") from error
    except BotoCoreError as error:
        raise Unavailable(f"{what}: {error}. Is the store up and reachable from here? It is safe to try again.") from error
    finally:
        client.close()
