"""Definitions load anywhere: with an empty environment, without a network, and without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("something connects while definitions load")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
from analytics_defs.definitions import defs
defs.get_repository_def().load_all_definitions()
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment}
    return subprocess.run([sys.executable, *arguments], env=bare, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


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
