from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from analytics_defs.devstack import dev_celery
from analytics_defs.errors import StartupFailed
from tests.deploy.files import DEPLOY, ROOT


def test_without_a_redis_on_this_machine_it_says_so_in_one_line_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StartupFailed, match=r"^not found on the PATH: redis-server \(Debian: apt install redis-server\)$"):
        dev_celery.engine(3)


def test_runs_are_handed_to_workers_as_in_production_and_all_else_is_as_in_development(tmp_path: Path) -> None:
    file = tmp_path / "dagster.yaml"
    shutil.copy(ROOT / "dagster.yaml", file)
    dev_celery.with_launcher(file)
    found, own, production = (
        yaml.safe_load(each.read_text(encoding="utf-8")) for each in (file, ROOT / "dagster.yaml", DEPLOY / "celery" / "dagster.yaml")
    )
    assert found["run_launcher"] == production["run_launcher"]
    assert found["run_monitoring"]["poll_interval_seconds"] == production["run_monitoring"]["poll_interval_seconds"]
    assert {key for key in found if found[key] != own.get(key)} == {"run_launcher", "run_monitoring"}
