"""What runs print goes to the archive's bucket, by dagster-aws, which micro-batches never import.

Dagster makes the instance's compute log manager in every run's own process. dagster-aws would cost each micro-batch 0.3 s of CPU,
14 MB and two or three uploads, every few seconds, for lines that its event log holds anyway. `deploy/dagster.yaml` names this class.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import dagster as dg
from dagster._core.storage.compute_log_manager import (
    CapturedLogContext,
    CapturedLogMetadata,
    CapturedLogSubscription,
    ComputeIOType,
    ComputeLogManager,
)
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from analytics_defs.config import load_settings

if TYPE_CHECKING:
    from dagster_aws.s3 import S3ComputeLogManager

    from analytics_defs.adapters.object_store.client import ObjectStoreConfig

_RUNS = "compute_logs"
"""The middle of a run's log key: `[run id, "compute_logs", file]`; the run id alone is the prefix of all of a run's. A tick's names its
repository, sensor and time."""


class LazyS3ComputeLogManager(ComputeLogManager[dg.DagsterInstance], ConfigurableClass):
    """`S3ComputeLogManager` on the archive's bucket, endpoint and keys, made when the first log is written or read.

    Runs of the jobs in `without_jobs` keep nothing: what they print goes where their process prints, the container's output.
    """

    def __init__(self, prefix: str, without_jobs: Sequence[str], inst_data: ConfigurableClassData | None = None) -> None:
        self._prefix = prefix
        self._without_jobs = frozenset(without_jobs)
        self._inst_data = inst_data
        self._nowhere = NoOpComputeLogManager()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        return {
            "prefix": dg.Field(dg.StringSource, default_value="compute-logs", is_required=False),
            "without_jobs": dg.Field([str], default_value=[], is_required=False),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)

    @cached_property
    def _bucket(self) -> S3ComputeLogManager:
        """Raises SettingsError where the settings are wrong. Connects to nothing."""
        from analytics_defs.wiring import object_store_config

        return _s3_compute_logs(object_store_config(load_settings()), self._prefix)

    def _of(self, log_key: Sequence[str]) -> ComputeLogManager[dg.DagsterInstance]:
        run = self._instance.get_run_by_id(log_key[0]) if list(log_key[1:2]) in ([], [_RUNS]) else None
        return self._nowhere if run is not None and run.job_name in self._without_jobs else self._bucket

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        logs = self._of(log_key)
        with logs.capture_logs(log_key) as context:
            yield context
        if logs is not self._nowhere and list(log_key[1:2]) == [_RUNS]:
            self._forget_folder(log_key)

    def _forget_folder(self, log_key: Sequence[str]) -> None:
        """What was staged on disk is uploaded and gone; Dagster leaves the run's empty folders, two for each run for ever."""
        staged = Path(self._bucket.local_manager.get_captured_local_path(log_key, "out"))
        with suppress(OSError):
            staged.parent.rmdir()
            staged.parent.parent.rmdir()

    @contextmanager
    def open_log_stream(self, log_key: Sequence[str], io_type: ComputeIOType) -> Iterator[IO[bytes] | None]:
        with self._of(log_key).open_log_stream(log_key, io_type) as stream:
            yield stream

    def is_capture_complete(self, log_key: Sequence[str]) -> bool:
        return self._of(log_key).is_capture_complete(log_key)

    def get_log_data_for_type(
        self, log_key: Sequence[str], io_type: ComputeIOType, offset: int, max_bytes: int | None
    ) -> tuple[bytes | None, int]:
        return self._of(log_key).get_log_data_for_type(log_key, io_type, offset, max_bytes)

    def get_log_metadata(self, log_key: Sequence[str]) -> CapturedLogMetadata:
        return self._of(log_key).get_log_metadata(log_key)

    def get_log_keys_for_log_key_prefix(self, log_key_prefix: Sequence[str], io_type: ComputeIOType) -> Sequence[list[str]]:
        return self._bucket.get_log_keys_for_log_key_prefix(log_key_prefix, io_type)

    def delete_logs(self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None) -> None:
        self._of(log_key or prefix or []).delete_logs(log_key, prefix)

    def subscribe(self, log_key: Sequence[str], cursor: str | None = None) -> CapturedLogSubscription:
        return self._of(log_key).subscribe(log_key, cursor)

    def unsubscribe(self, subscription: CapturedLogSubscription) -> None:
        self._of(subscription.log_key).unsubscribe(subscription)

    def dispose(self) -> None:
        if "_bucket" in self.__dict__:
            self._bucket.dispose()  # type: ignore[no-untyped-call]


def _s3_compute_logs(config: ObjectStoreConfig, prefix: str) -> S3ComputeLogManager:
    """dagster-aws takes neither keys nor time limits, only boto3's default session: it gets one of its own while it is made.

    A sensor's tick writes its log here and may take 60 s in all; a bucket that accepts and never answers must not use them up.
    """
    import boto3
    import botocore.session
    from botocore.config import Config
    from dagster_aws.s3 import S3ComputeLogManager

    session = botocore.session.Session()
    session.set_default_client_config(
        Config(
            connect_timeout=config.connect_timeout.total_seconds(),
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 2},
            s3={"addressing_style": "path"} if config.endpoint else {},
        )
    )
    default = boto3.DEFAULT_SESSION
    try:
        boto3.setup_default_session(
            botocore_session=session,
            region_name=config.region,
            aws_access_key_id=config.keys.access_key_id if config.keys else None,
            aws_secret_access_key=config.keys.secret_access_key if config.keys else None,
        )
        return S3ComputeLogManager(
            bucket=config.bucket,
            local_dir=tempfile.gettempdir(),  # its default is /tmp, whatever TMPDIR says
            prefix=prefix,
            endpoint_url=config.endpoint,
            skip_empty_files=True,
        )
    finally:
        boto3.DEFAULT_SESSION = default
