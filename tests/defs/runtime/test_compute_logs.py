"""Compute logs in the archive's bucket, and a micro-batch that pays nothing for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from analytics_defs.adapters.object_store.bucket import create_bucket
from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.defs.runtime.compute_logs import _s3_compute_logs
from tests.contracts.object_store_fixtures import moto_endpoint

BUCKET = "logs-of-runs"
RUNS = """\
import json, os, pathlib, sys
import dagster as dg
from dagster._core.storage.compute_log_manager import ComputeIOType

@dg.op
def speak() -> None:
    print("said by a run")

def job(name):
    @dg.job(name=name, executor_def=dg.in_process_executor)
    def speaking() -> None:
        speak()
    return speaking

def run(name):
    instance = dg.DagsterInstance.get()
    done = job(name).execute_in_process(instance=instance)
    (captured,) = [event.logs_captured_data for event in done.all_events if event.event_type_value == "LOGS_CAPTURED"]
    imported = "dagster_aws" in sys.modules
    left = [str(each) for each in pathlib.Path(os.environ["TMPDIR"]).rglob("compute_logs")]
    reader = dg.DagsterInstance.get()
    logs = reader.compute_log_manager
    key = [done.run_id, "compute_logs", captured.file_key]
    read, _ = logs.get_log_data_for_type(key, ComputeIOType.STDOUT, 0, None)
    return {"imported": imported, "left on disk": left, "complete": logs.is_capture_complete(key), "read": read and read.decode()}

print(json.dumps([run("micro_batch"), run("another")]), file=sys.stderr)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An instance with the production file's compute logs and SQLite."""
    production = yaml.safe_load((Path(__file__).parents[3] / "deploy/dagster.yaml").read_text(encoding="utf-8"))
    instance = {name: production[name] for name in ("compute_logs", "telemetry")}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance), encoding="utf-8")
    return tmp_path


def test_what_a_run_prints_can_be_read_from_the_bucket_and_a_micro_batch_never_imports_what_that_takes(home: Path) -> None:
    with moto_endpoint() as endpoint:
        create_bucket(ObjectStoreConfig(BUCKET, endpoint, keys=ObjectStoreKeys("minio", "minio123")))
        settings = {"DAGSTER_HOME": str(home), "TMPDIR": str(home), "MINIO_ENDPOINT": endpoint, "ARCHIVE_BUCKET_NAME": BUCKET}
        done = subprocess.run([sys.executable, "-c", RUNS], env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    micro_batch, another = json.loads(done.stderr.splitlines()[-1])
    assert micro_batch == {"imported": False, "left on disk": [], "complete": True, "read": None}
    assert another == {"imported": True, "left on disk": [], "complete": True, "read": "said by a run\n"}
    assert done.stdout.count("said by a run") == 2


def test_a_bucket_of_ones_own_gets_its_own_keys_a_region_and_little_time() -> None:
    """60 s are all that a sensor's tick has, which writes its log at its end."""
    config = ObjectStoreConfig(BUCKET, "http://127.0.0.1:9", "eu-north-1", ObjectStoreKeys("key", "secret"), timedelta(seconds=2))
    before = boto3.DEFAULT_SESSION
    client: Any = _s3_compute_logs(config, "logs")._s3_session
    assert boto3.DEFAULT_SESSION is before
    assert (client.meta.endpoint_url, client.meta.region_name) == ("http://127.0.0.1:9", "eu-north-1")
    assert client._request_signer._credentials.access_key == "key"
    limits = client.meta.config
    assert limits.retries["total_max_attempts"] * (limits.connect_timeout + limits.read_timeout) < 30
