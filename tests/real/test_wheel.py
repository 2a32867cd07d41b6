"""The wheel, installed into an empty environment outside the repository."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.request import urlopen

import pytest

from analytics_defs.devstack import env_file
from analytics_defs.devstack.tcp_ports import free_port
from tests.devstack.waiting import until

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the programs of an environment that has the wheel and its extra `stack`."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools writes into the folder that it builds
    shutil.copytree(ROOT / "analytics_defs", source / "analytics_defs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = (folder / "venv/bin/pip", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    [wheel] = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"analytics_defs/devstack/dagster.yaml", "analytics_defs/devstack/workspace.yaml", "analytics_defs/py.typed"} <= set(names)
    assert [name for name in names if name.startswith(("tests/", "bench/", "deploy/"))] == []
    subprocess.run([*pip, "install", "--no-compile", "--constraint", ROOT / "constraints.txt", f"{wheel}[stack]"], check=True)
    return folder / "venv/bin"


def test_the_wheel_runs_the_whole_platform_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HEALTH_PORT": str(free_port())}
    command = [str(installed / "analytics"), "dev", "--port", str(port), "--rate", "50"]
    with (tmp_path / "output").open("wb") as output:
        stack = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        until(lambda: "Ctrl-C stops everything" in (tmp_path / "output").read_text() or stack.poll() is not None, seconds=180)
        assert stack.poll() is None, (tmp_path / "output").read_text()
        settings = env_file.read_env_file(tmp_path / ".dev/env")

        def closed_offsets() -> int:
            audit = [str(installed / "analytics"), "audit", "--json"]
            answer = subprocess.run(audit, cwd=tmp_path, env=environment | settings, check=False, capture_output=True, text=True)
            if answer.returncode:
                return 0  # the first batch is not closed yet
            audited = json.loads(answer.stdout)
            assert audited["unaccounted"] == 0
            return sum(partition["next_offset"] for partition in audited["partitions"])

        until(lambda: closed_offsets() > 100, seconds=120)
        assert urlopen(f"http://127.0.0.1:{port}/server_info").status == 200
    finally:
        stack.send_signal(signal.SIGINT)
        assert stack.wait(timeout=60) == 0
    assert {path.name for path in tmp_path.iterdir()} <= {".dev", "output"}


def test_dagster_loads_the_definitions_of_the_wheel_by_module_name(installed: Path, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = [str(installed / "dagster"), "definitions", "validate", "-m", "analytics_defs.definitions"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
