"""What a Celery worker refuses, and how it is set up."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from analytics_defs.cli.app import analytics
from analytics_defs.defs.runtime import celery_worker
from analytics_defs.errors import SettingsError
from tests.deploy.files import DEPLOY

CELERY = (DEPLOY / "celery" / "dagster.yaml").read_text(encoding="utf-8")


def home(folder: Path, launcher: str) -> Path:
    """An instance without Postgres: what Dagster makes by itself, and this launcher."""
    (folder / "dagster.yaml").write_text(f"telemetry:\n  enabled: false\n{launcher}", encoding="utf-8")
    return folder


def launcher_of_production() -> str:
    return CELERY[CELERY.index("run_launcher:") : CELERY.index("# Bounded by")]


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home(tmp_path, launcher_of_production())))
    monkeypatch.setenv("DAGSTER_CELERY_BROKER", "redis://localhost:1/0")


@pytest.mark.usefixtures("production")
def test_a_worker_is_set_up_as_the_launcher_is_and_acknowledges_a_run_when_it_has_ended() -> None:
    conf = celery_worker.worker_app().conf
    assert (conf.broker_url, conf.result_backend) == ("redis://localhost:1/0", "redis://localhost:1/0")
    assert (conf.task_acks_late, conf.worker_prefetch_multiplier, conf.task_reject_on_worker_lost) == (True, 1, None)
    assert conf.broker_transport_options["visibility_timeout"] == 60
    assert conf.broker_transport == "analytics_defs.defs.runtime.redis_transport:Transport"


@pytest.mark.usefixtures("production")
def test_the_one_task_of_a_worker_is_ours() -> None:
    assert isinstance(celery_worker.worker_app().tasks["execute_job"], celery_worker.RunTask)


def test_an_instance_that_starts_its_runs_without_celery_is_said_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home(tmp_path, "")))
    with pytest.raises(SettingsError, match=r"starts its runs by DefaultRunLauncher.*CeleryRunLauncher.*COMPOSE_PROFILES=celery"):
        celery_worker.worker_app()


def test_a_worker_without_an_instance_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    shown = CliRunner().invoke(analytics, ["worker"])
    assert (shown.exit_code, "DAGSTER_HOME is not set" in shown.output) == (2, True)


@pytest.mark.usefixtures("production")
def test_a_run_of_another_platform_on_the_same_redis_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Each of the two loses runs to the other's workers; its sensor sees only that they did not begin."""
    celery_worker._report("6b0c4c5e-0000-4000-8000-000000000000", RuntimeError("no such run"))
    assert "not in this worker's Dagster storage: does another platform use the same Redis?" in caplog.text
