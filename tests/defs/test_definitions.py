"""Definitions load with an empty environment, without a network and without a warning, and show the path of the data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analytics_defs.definitions import defs
from analytics_defs.defs.asset_specs import topic_assets

ROOT = Path(__file__).parents[2]
OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a module connects while definitions load")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
from analytics_defs.definitions import defs
defs.get_repository_def().load_all_definitions()
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    minimal = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment}
    return subprocess.run([sys.executable, *arguments], env=minimal, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "environment", [{}, {"LANES": "none", "KAFKA_TOPICS": ",", "PARTITIONS_START": "yesterday"}], ids=["empty", "wrong"]
)
def test_definitions_load_with_an_empty_or_wrong_environment_and_no_network(environment: dict[str, str]) -> None:
    done = python("-W", "error::DeprecationWarning", "-c", OFFLINE, **environment)
    assert done.returncode == 0, done.stderr


def test_dagster_validates_the_definitions(tmp_path: Path) -> None:
    done = python("-m", "dagster", "definitions", "validate", "-m", "analytics_defs.definitions", DAGSTER_HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Validation successful" in done.stdout + done.stderr


def test_the_micro_batch_path_imports_nothing_heavy() -> None:
    heavy = ["pandas", "duckdb", "matplotlib", "dagster_aws", "moto", "polars"]
    done = python("-c", f"import sys, analytics_defs.definitions; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_lineage_shows_the_path_of_the_data() -> None:
    topics = {spec.key.to_user_string() for spec in topic_assets}
    graph = defs.resolve_asset_graph()
    edges = {(parent.to_user_string(), node.key.to_user_string()) for node in graph.asset_nodes for parent in node.parent_keys}
    assert edges == {
        *((topic, "recent_events") for topic in topics),
        *((topic, "dead_letters") for topic in topics),
        ("recent_events", "event_json"),
        ("recent_events", "event_parts"),
        ("recent_events", "event_counters"),
        ("event_counters", "committed_offsets"),
        ("event_parts", "event_archive"),
        ("event_archive", "hourly_event_stats"),
        ("event_archive", "restored_recent_events"),
        ("hourly_event_stats", "daily_event_stats"),
        ("hourly_event_stats", "product_activity"),
    }
