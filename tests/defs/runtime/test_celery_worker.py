"""The configuration of a Celery worker, and the instances and runs that it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from analytics_defs.cli.app import analytics
from analytics_defs.defs.runtime import celery_worker
from analytics_defs.errors import SettingsError
from tests.deploy.files import DEPLOY

CELERY = yaml.safe_load((DEPLOY / "celery" / "dagster.yaml").read_text(encoding="utf-8"))


def home(folder: Path, launcher: str) -> Path:
    """Write an instance with this launcher and Dagster's default storage. Return its folder."""
    (folder / "dagster.yaml").write_text(f"telemetry:\n  enabled: false\n{launcher}", encoding="utf-8")
    return folder


def production_launcher() -> str:
    return str(yaml.safe_dump({"run_launcher": CELERY["run_launcher"]}))


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home(tmp_path, production_launcher())))
    monkeypatch.setenv("DAGSTER_CELERY_BROKER", "redis://localhost:1/0")


@pytest.mark.usefixtures("production")
def test_a_worker_is_configured_like_the_launcher_and_acknowledges_a_run_at_its_end() -> None:
    conf = celery_worker.worker_app().conf
    assert (conf.broker_url, conf.result_backend) == ("redis://localhost:1/0", "redis://localhost:1/0")
    assert (conf.task_acks_late, conf.worker_prefetch_multiplier, conf.task_reject_on_worker_lost) == (True, 1, None)
    assert conf.broker_transport_options["visibility_timeout"] == 60
    assert conf.broker_transport == "analytics_defs.defs.runtime.redis_transport:Transport"


@pytest.mark.usefixtures("production")
def test_a_worker_executes_runs_with_the_task_of_this_package() -> None:
    assert isinstance(celery_worker.worker_app().tasks["execute_job"], celery_worker.RunTask)


def test_an_instance_that_starts_its_runs_without_celery_is_refused_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home(tmp_path, "")))
    with pytest.raises(SettingsError, match=r"starts its runs by DefaultRunLauncher.*CeleryRunLauncher.*COMPOSE_PROFILES=celery"):
        celery_worker.worker_app()


def test_a_worker_without_an_instance_names_the_missing_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    result = CliRunner().invoke(analytics, ["worker"])
    assert (result.exit_code, "DAGSTER_HOME is not set" in result.output) == (2, True)


@pytest.mark.usefixtures("production")
def test_a_run_of_another_platform_on_the_same_redis_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each platform loses runs to the workers of the other. Its sensor sees only that they did not begin."""
    celery_worker._report_failed("6b0c4c5e-0000-4000-8000-000000000000", RuntimeError("no such run"))
    assert "not in this worker's Dagster storage: does another platform use the same Redis?" in caplog.text


@pytest.mark.parametrize("module", celery_worker.PRELOADED)
def test_every_preloaded_module_exists(module: str) -> None:
    assert importlib.util.find_spec(module)
