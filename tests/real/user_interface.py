"""`dagster dev` as a user starts it, and the GraphQL requests of its UI."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from analytics_defs.config import Settings
from analytics_defs.devstack.tcp_ports import LOOPBACK, free_port, http_status
from tests.devstack.waiting import until

ROOT = Path(__file__).parents[2]
REPOSITORY = {"repositoryLocationName": "analytics", "repositoryName": "__repository__"}


@dataclass(frozen=True, slots=True)
class UserInterface:
    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill webserver, daemon, code server and the processes of all runs at once, as when the machine loses power."""
        tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in tree:
            process.suspend()  # so that no parent records the end of its child
        for process in tree:
            process.kill()
        self.process.wait(10)
        _, alive = psutil.wait_procs(tree[1:], timeout=10)
        assert not alive

    def query(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            result = json.load(response)
        assert "errors" not in result, result
        return result["data"]

    def stop_sensor(self, name: str) -> None:
        selector = REPOSITORY | {"sensorName": name}
        result = self.query("query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { id } } }", s=selector)
        self.query("mutation($id: String!) { stopSensor(id: $id) { __typename } }", id=result["sensorOrError"]["id"])

    def launch_job(self, name: str, config: Mapping[str, Any]) -> str:
        params = {"selector": REPOSITORY | {"jobName": name}, "runConfigData": json.dumps(config)}
        query = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
            __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"""
        result = self.query(query, p=params)["launchRun"]
        assert result["__typename"] == "LaunchRunSuccess", result
        return str(result["run"]["id"])

    def launch_backfill(self, asset: str, partitions: list[str]) -> str:
        params = {"assetSelection": [{"path": [asset]}], "partitionNames": partitions}
        query = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
            __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
        result = self.query(query, p=params)["launchPartitionBackfill"]
        assert result["__typename"] == "LaunchBackfillSuccess", result
        return str(result["backfillId"])

    def cancel_backfill(self, backfill: str) -> None:
        self.query("mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }", id=backfill)

    def backfill_status(self, backfill: str) -> str:
        query = "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
        return str(self.query(query, id=backfill)["partitionBackfillOrError"]["status"])

    def runs_of(self, backfill: str) -> list[dict[str, Any]]:
        query = "query($f: RunsFilter!) { runsOrError(filter: $f, limit: 200) { ... on Runs { results { id status } } } }"
        result = self.query(query, f={"tags": [{"key": "dagster/backfill", "value": backfill}]})
        return list(result["runsOrError"]["results"])

    def materialized(self, asset: str) -> int:
        query = "query($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode { partitionStats { numMaterialized } } } }"
        return int(self.query(query, k={"path": [asset]})["assetNodeOrError"]["partitionStats"]["numMaterialized"])


@contextmanager
def dagster_dev(
    settings: Settings, folder: Path, workspace: Sequence[str] = ("-w", "workspace.yaml"), **changes: str
) -> Iterator[UserInterface]:
    """Start `dagster dev` and wait until it serves. End it with all its processes after the block. Its output is in `folder`.

    Its instance is `folder / "home"`. It is created if it does not exist. `changes` are environment variables.
    """
    home, port = folder / "home", free_port()
    if not home.exists():
        home.mkdir()
        shutil.copy(ROOT / "dagster.yaml", home)
    command = [sys.executable, "-m", "dagster", "dev", "-h", LOOPBACK, "-p", str(port), *workspace]
    environment = dict(os.environ) | dict(_environment(settings)) | {"DAGSTER_HOME": str(home)} | changes
    with (folder / "dagster.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            url = f"http://{LOOPBACK}:{port}"
            until(lambda: _answers(f"{url}/server_info"), seconds=120)
            yield UserInterface(url, process)
        finally:
            _end(process)


def _answers(url: str) -> bool:
    try:
        return http_status(url) == 200
    except (OSError, urllib.error.URLError):
        return False


def _environment(settings: Settings) -> Mapping[str, str]:
    names = ("kafka_group_id", "recent_events_table_name", "ledger_table_name", "aggregates_table_name", "archive_bucket_name")
    return {name.upper(): str(getattr(settings, name)) for name in names} | {"KAFKA_TOPICS": ",".join(settings.kafka_topics)}


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
