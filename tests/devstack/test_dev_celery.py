from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from analytics_defs.devstack import dev_celery
from analytics_defs.errors import StartupFailed
from tests.deploy.files import DEPLOY, ROOT


def test_a_missing_redis_server_is_reported_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StartupFailed, match=r"^not found on the PATH: redis-server \(Debian: apt install redis-server\)$"):
        dev_celery.celery_launcher(3)


def test_only_the_launcher_and_run_monitoring_are_those_of_production(tmp_path: Path) -> None:
    file = tmp_path / "dagster.yaml"
    shutil.copy(ROOT / "dagster.yaml", file)
    dev_celery.use_production_launcher(file)
    changed, development, production = (
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in (file, ROOT / "dagster.yaml", DEPLOY / "celery" / "dagster.yaml")
    )
    assert changed["run_launcher"] == production["run_launcher"]
    assert changed["run_monitoring"]["poll_interval_seconds"] == production["run_monitoring"]["poll_interval_seconds"]
    assert {key for key in changed if changed[key] != development.get(key)} == {"run_launcher", "run_monitoring"}
