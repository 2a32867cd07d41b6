"""Alert rules and dashboard: they query existing series, and a real Prometheus accepts them and scrapes the endpoint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from analytics_defs.adapters.memory import ManualClock
from analytics_defs.core.monitoring.health import SchedulerStatus
from analytics_defs.devstack.tcp_ports import LOOPBACK, free_port, http_status
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from tests.deploy.files import DEPLOY
from tests.deploy.programs import Program, surroundings
from tests.devstack.waiting import until
from tests.proof.world import RULES, TOPIC, World, event, ingest_options
from tests.web.served import Client, FixedScheduler, real_time, served, site

RULES_FILE, TESTS_FILE = DEPLOY / "prometheus" / "alerts.yml", DEPLOY / "prometheus" / "alerts_test.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "analytics.json").read_text(encoding="utf-8"))
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))["groups"][0]["rules"]


@contextmanager
def all_series() -> Iterator[tuple[Client, World]]:
    """Serve an endpoint with a sample in every series: lag, a redriven dead letter, a Dagster instance."""
    world = World(clock=ManualClock(datetime.now(UTC) - timedelta(minutes=1)))
    world.create()
    world.produce(event("a"), event("a", note="again"), b"{", event("large", text="x" * 500), None)
    world.settle(ingest_options(validation_rules=type(RULES)(max_event_bytes=400)))
    redrive_dead_letters(DeadLetterFilter("too_large", None, None), world.ports, ingest_options("redrive"))
    world.event_log.append(TOPIC, 0, event("late"), timestamp_ms=int(datetime.now(UTC).timestamp() * 1000) - 90_000)
    scheduling = FixedScheduler(SchedulerStatus(sensor_stopped=False, heartbeat=datetime.now(UTC)))
    with served(site(real_time(world), scheduling=scheduling)) as client:
        until(lambda: all(name in text(client) for name in ("analytics_partition_lag_seconds", "analytics_sensor_running")))
        yield client, world


def text(client: Client) -> str:
    return client.get("/metrics?format=prometheus").text


def series(client: Client) -> set[str]:
    return set(re.findall(r"^(analytics_\w+)", text(client), re.MULTILINE))


def test_rules_and_dashboard_query_existing_series_only() -> None:
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    expressions = " ".join(query["expr"] for query in (*ALERTS, *targets))
    names = set(re.findall(r"\banalytics_\w+", expressions))
    with all_series() as (client, _):
        assert names - series(client) == set()


def test_every_alert_is_tested_and_has_a_summary_and_a_description() -> None:
    tests = yaml.safe_load(TESTS_FILE.read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    not_firing = {case["alertname"] for case in cases if not case["exp_alerts"]}
    names = {rule["alert"] for rule in ALERTS}
    assert firing == not_firing == names
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for position in [panel["gridPos"]]
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def promtool(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("promtool")
    assert program, "promtool is not installed (Debian and Ubuntu: apt install prometheus)"
    return subprocess.run([program, *arguments], input=stdin, capture_output=True, timeout=60, check=False)


@pytest.mark.real
def test_promtool_accepts_the_rules_their_tests_and_the_metrics() -> None:
    for arguments in (("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")), ("test", "rules", str(TESTS_FILE))):
        result = promtool(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr
    with all_series() as (client, _):
        result = promtool("check", "metrics", stdin=text(client).encode())
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Yield the URL of a Prometheus with the published configuration. Target and intervals (1 s) differ."""
    program = shutil.which("prometheus")
    assert program, "prometheus is not installed (Debian and Ubuntu: apt install prometheus)"
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES_FILE)]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    url = f"http://{LOOPBACK}:{free_port()}"
    command = (program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    running = Program((*command, f"--web.listen-address={url.removeprefix('http://')}"), surroundings(folder), folder / "log")
    try:
        until(lambda: http_status(f"{url}/-/ready") == 200, seconds=30)
        yield url
    finally:
        running.kill()


@pytest.mark.real
def test_a_real_prometheus_scrapes_the_endpoint_and_loads_the_rules(tmp_path: Path) -> None:
    with all_series() as (client, world), prometheus(tmp_path, f"{LOOPBACK}:{client.port}") as url:
        until(lambda: bool(query(url, "analytics_healthy")), seconds=20)
        assert query(url, "up")[0]["value"][1] == "1"
        assert query(url, "analytics_healthy")[0]["value"][1] == "1"
        assert query(url, "sum(analytics_events_total)")[0]["value"][1] == str(len(world.recent_events.items))
        assert query(url, "analytics_partition_lag_offsets")[0]["metric"]["topic"] == TOPIC
        groups = get_data(f"{url}/api/v1/rules")["groups"]
        assert {(rule["name"], rule["health"]) for group in groups for rule in group["rules"]} <= {
            (rule["alert"], state) for rule in ALERTS for state in ("ok", "unknown")
        }


@pytest.mark.real
def test_every_panel_of_the_dashboard_has_data_in_a_real_prometheus(tmp_path: Path) -> None:
    """Send each query as Grafana does: instances as a regular expression, the rate interval as a duration."""
    queries = [(panel["title"], target["expr"], target["legendFormat"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    with all_series() as (client, _), prometheus(tmp_path, f"{LOOPBACK}:{client.port}") as url:
        [variable] = [entry for entry in DASHBOARD["templating"]["list"] if entry["type"] == "query"]
        label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
        assert label
        until(lambda: bool(query(url, label[1])), seconds=20)
        instances = "|".join(sample["metric"][label[2]] for sample in query(url, label[1]))
        for title, expression, legend in queries:
            sent = expression.replace("$instance", instances).replace("$__rate_interval", "10s")
            assert "$" not in sent, (title, sent)
            until(lambda sent=sent: bool(query(url, sent)), seconds=20)  # type: ignore[misc]
            labels = set(re.findall(r"{{(\w+)}}", legend))
            assert labels <= set(query(url, sent)[0]["metric"]), (title, legend)


def query(url: str, expression: str) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = get_data(f"{url}/api/v1/query?query={urllib.parse.quote(expression)}")["result"]
    return samples


def get_data(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - loopback
        data: dict[str, Any] = json.load(response)["data"]
    return data
