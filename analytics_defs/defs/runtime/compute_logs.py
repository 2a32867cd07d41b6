"""The compute logs of runs and ticks in the archive bucket, written by dagster-aws with the settings of the platform."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import boto3
import botocore.session
import dagster as dg
from botocore.config import Config
from dagster_aws.s3 import S3ComputeLogManager

from analytics_defs.config import load_settings
from analytics_defs.wiring import object_store_config

if TYPE_CHECKING:
    from dagster._core.storage.compute_log_manager import CapturedLogContext
    from dagster._serdes import ConfigurableClassData

    from analytics_defs.adapters.object_store.client import ObjectStoreConfig


class ArchiveComputeLogManager(S3ComputeLogManager):
    """`S3ComputeLogManager` on the archive bucket, with its endpoint, its keys and short time limits.

    The stock class reads its keys from AWS_ACCESS_KEY_ID, which is the key of DYNAMO_ENDPOINT, and not of MINIO_ENDPOINT. It also leaves
    two empty folders on disk for every run.
    """

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        return {"prefix": dg.Field(dg.StringSource, default_value="compute-logs", is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Create the manager without connecting. Raise SettingsError if the settings are wrong."""
        config = object_store_config(load_settings())
        with _default_session(config):
            return cls(
                bucket=config.bucket,
                local_dir=tempfile.gettempdir(),  # the default is /tmp, even if TMPDIR is set
                inst_data=inst_data,
                prefix=config_value["prefix"],
                endpoint_url=config.endpoint,
                skip_empty_files=True,
            )

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Capture and upload. Then remove the empty folders of the run, so that a long-lived process does not fill its disk."""
        with super().capture_logs(log_key) as context:
            yield context
        folder = Path(self.local_manager.get_captured_local_path(log_key, "out")).parent
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()


@contextmanager
def _default_session(config: ObjectStoreConfig) -> Iterator[None]:
    """Replace the default session of boto3 inside the block: dagster-aws takes its client from there and offers no other way.

    A sensor tick writes its log here and has 60 s in all. A bucket that accepts connections and never answers must not use them up.
    """
    session = botocore.session.Session()
    session.set_default_client_config(
        Config(
            connect_timeout=config.connect_timeout.total_seconds(),
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 2},
            s3={"addressing_style": "path"} if config.endpoint else {},
        )
    )
    previous = boto3.DEFAULT_SESSION
    try:
        boto3.setup_default_session(
            botocore_session=session,
            region_name=config.region,
            aws_access_key_id=config.keys.access_key_id if config.keys else None,
            aws_secret_access_key=config.keys.secret_access_key if config.keys else None,
        )
        yield
    finally:
        boto3.DEFAULT_SESSION = previous
