"""Creation of the bucket with boto3, because obstore has no such request. boto3 is imported on use to keep micro-batches fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from analytics_defs.adapters.aws_sessions import isolated_session, sdk_configuration, user_session
from analytics_defs.adapters.object_store.client import ObjectStoreConfig
from analytics_defs.errors import AccessDenied, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import BucketLocationConstraintType

_MISSING_CODES = {"404", "NoSuchBucket"}
_DENIED_CODES = {"401", "403", "AccessDenied", "BucketAlreadyExists", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
"""`BucketAlreadyExists`: another account owns a bucket of this name."""


def bucket_exists(config: ObjectStoreConfig) -> bool:
    """Return whether the bucket exists. Raise AccessDenied if another account owns it or the credentials are refused."""
    from botocore.exceptions import ClientError

    with _s3(config, "looking up the bucket") as client:
        try:
            client.head_bucket(Bucket=config.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING_CODES:
                return False
            raise
    return True


def create_bucket(config: ObjectStoreConfig) -> bool:
    """Create the bucket if it does not exist. Return whether it was created. Idempotent."""
    if bucket_exists(config):
        return False
    with _s3(config, "creating the bucket") as client:
        region = cast("BucketLocationConstraintType", client.meta.region_name)
        try:
            if client.meta.region_name == "us-east-1":  # S3 refuses a location constraint for this region
                client.create_bucket(Bucket=config.bucket)
            else:
                client.create_bucket(Bucket=config.bucket, CreateBucketConfiguration={"LocationConstraint": region})
        except client.exceptions.BucketAlreadyOwnedByYou:
            return False
    return True


@contextmanager
def _s3(config: ObjectStoreConfig, action: str) -> Iterator[S3Client]:
    """Yield a client. Raise its errors in the block as AnalyticsError."""
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    keys = config.keys
    prefix = f"{config.endpoint or 'Amazon S3'}, bucket {config.bucket}: {action} failed"
    with sdk_configuration("S3"):
        client = (isolated_session() if keys else user_session()).client(
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
        code, detail = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in _DENIED_CODES:
            raise AccessDenied(f"{prefix}: {code} {detail}. Correct the credentials, their permissions, or ARCHIVE_BUCKET_NAME.") from error
        raise Unavailable(f"{prefix}: the store answered {code} {detail}. It is safe to try again.") from error
    except NoCredentialsError as error:
        raise AccessDenied(
            f"{prefix}: the SDK found no credentials. Configure them, or set MINIO_ENDPOINT to use another store."
        ) from error
    except BotoCoreError as error:
        raise Unavailable(
            f"{prefix}: {error}. Check that the store is up and reachable from this machine. It is safe to try again."
        ) from error
    finally:
        client.close()
