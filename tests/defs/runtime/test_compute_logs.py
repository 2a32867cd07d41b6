"""Compute logs of runs in the archive bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from analytics_defs.adapters.object_store.bucket import create_bucket
from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.config import Settings
from analytics_defs.defs.runtime import compute_logs
from tests.contracts.object_store_fixtures import moto_endpoint

BUCKET = "logs-of-runs"
RUN = """\
import json, os, pathlib, sys
import dagster as dg
from dagster._core.storage.compute_log_manager import ComputeIOType

@dg.op
def speak() -> None:
    print("printed by a run")

@dg.job(executor_def=dg.in_process_executor)
def speaking() -> None:
    speak()

result = speaking.execute_in_process(instance=dg.DagsterInstance.get())
(captured,) = [event.logs_captured_data for event in result.all_events if event.event_type_value == "LOGS_CAPTURED"]
left = [str(path) for path in pathlib.Path(os.environ["TMPDIR"]).rglob("compute_logs")]
logs = dg.DagsterInstance.get().compute_log_manager
key = [result.run_id, "compute_logs", captured.file_key]
data, _ = logs.get_log_data_for_type(key, ComputeIOType.STDOUT, 0, None)
print(json.dumps({"left on disk": left, "complete": logs.is_capture_complete(key), "data": data and data.decode()}), file=sys.stderr)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Write an instance with the compute logs of the production file, and SQLite. Return its folder."""
    production = yaml.safe_load((Path(__file__).parents[3] / "deploy/dagster.yaml").read_text(encoding="utf-8"))
    instance = {name: production[name] for name in ("compute_logs", "telemetry")}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance), encoding="utf-8")
    return tmp_path


def test_what_a_run_prints_can_be_read_from_the_bucket_and_nothing_is_left_on_disk(home: Path) -> None:
    with moto_endpoint() as endpoint:
        create_bucket(ObjectStoreConfig(BUCKET, endpoint, keys=ObjectStoreKeys("minio", "minio123")))
        settings = {"DAGSTER_HOME": str(home), "TMPDIR": str(home), "MINIO_ENDPOINT": endpoint, "ARCHIVE_BUCKET_NAME": BUCKET}
        done = subprocess.run([sys.executable, "-c", RUN], env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1]) == {"left on disk": [], "complete": True, "data": "printed by a run\n"}


def test_an_endpoint_gets_its_own_keys_a_region_and_short_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sensor tick writes its log at its end and has 60 s in all."""
    settings = Settings(
        minio_endpoint="http://127.0.0.1:9",
        minio_access_key="key",
        minio_secret_key="secret",
        aws_default_region="eu-north-1",
        archive_bucket_name=BUCKET,
    )
    monkeypatch.setattr(compute_logs, "load_settings", lambda: settings)
    before = boto3.DEFAULT_SESSION
    client: Any = compute_logs.ArchiveComputeLogManager.from_config_value(None, {"prefix": "logs"})._s3_session
    assert boto3.DEFAULT_SESSION is before
    assert (client.meta.endpoint_url, client.meta.region_name) == ("http://127.0.0.1:9", "eu-north-1")
    assert client._request_signer._credentials.access_key == "key"
    limits = client.meta.config
    assert limits.retries["total_max_attempts"] * (limits.connect_timeout + limits.read_timeout) < 30
