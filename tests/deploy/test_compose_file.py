"""What docker-compose.yml promises, read from the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from analytics_defs.config import Settings, load_settings, setting_names
from analytics_defs.devstack.install import DYNAMODB_LOCAL_VERSION, KAFKA_VERSION
from tests.deploy.files import DEPLOY, ROOT, compose, dockerfile, environment_of_dagster

COMPOSE = compose({})
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
LASTING = [name for name in SERVICES if name != "setup"]


def test_ours_are_the_parts_of_dagster_the_one_that_sets_up_the_worker_and_the_health_job() -> None:
    assert OURS == ["setup", "code", "worker", "webserver", "daemon", "health"]


def test_workers_and_their_queue_are_of_a_profile_and_with_it_everybody_reads_the_dagster_yaml_that_hands_runs_to_them() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"redis", "worker"}
    assert Path(SERVICES["daemon"]["environment"]["DAGSTER_HOME"]) == Path("/app/deploy")
    chosen = compose({"COMPOSE_PROFILES": SERVICES["worker"]["profiles"][0], "LANES": "8"})["services"]["daemon"]["environment"]
    assert (chosen["DAGSTER_HOME"], chosen["LANES"]) == ("/app/deploy/celery", "8")
    assert (DEPLOY / "celery" / "dagster.yaml").exists()
    assert chosen["DAGSTER_CELERY_BROKER"].startswith("redis://redis:")


def test_a_message_is_on_the_disk_of_redis_before_it_is_confirmed() -> None:
    words = SERVICES["redis"]["command"]
    assert (words[words.index("--appendonly") + 1], words[words.index("--appendfsync") + 1]) == ("yes", "always")


def test_a_worker_has_time_for_its_runs_and_has_no_fixed_name_so_that_there_can_be_many() -> None:
    assert _seconds(SERVICES["worker"]["stop_grace_period"]) >= 150
    assert not {"container_name", "hostname", "ports"} & SERVICES["worker"].keys()


def test_the_health_job_waits_for_nobody_and_is_reached_at_the_port_of_the_image() -> None:
    health = SERVICES["health"]
    assert "depends_on" not in health
    assert "RUN_HEALTH_IN_DAGSTER" not in health["environment"].keys() | dockerfile().environment.keys()  # a process of its own is enough
    assert health["ports"] == ["127.0.0.1:8080:" + dockerfile().environment["HEALTH_PORT"]]
    assert f"http://127.0.0.1:{dockerfile().environment['HEALTH_PORT']}/health/live" in health["healthcheck"]["test"][-1]


def test_servers_are_pinned_to_a_release_and_where_they_also_run_natively_to_the_same_one() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if name not in OURS}
    assert images["kafka"] == f"apache/kafka:{KAFKA_VERSION}"
    assert images["dynamodb"] == f"amazon/dynamodb-local:{DYNAMODB_LOCAL_VERSION}"
    assert all(re.fullmatch(r"\S+:\S*\d+\.\d+\S*|\S+:RELEASE\.\d{4}-\S+", image) for image in images.values()), images


@pytest.mark.parametrize("name", LASTING)
def test_whatever_stays_up_has_a_health_check_a_restart_policy_and_time_to_end(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["healthcheck"]["start_period"]
    assert service["restart"] == "unless-stopped"
    assert _seconds(service["stop_grace_period"]) >= 15


def test_set_up_runs_once_when_the_servers_are_healthy_and_the_code_server_after_it() -> None:
    setup = SERVICES["setup"]
    assert (setup["restart"], setup["healthcheck"]) == ("no", {"disable": True})
    assert setup["depends_on"] == {name: {"condition": "service_healthy"} for name in ("kafka", "dynamodb", "minio")}
    assert SERVICES["code"]["depends_on"]["setup"] == {"condition": "service_completed_successfully"}


def test_daemon_and_webserver_are_stopped_before_the_code_server_which_has_time_for_its_runs() -> None:
    """Compose stops in the reverse order of dependencies."""
    assert SERVICES["daemon"]["depends_on"] == SERVICES["webserver"]["depends_on"] == {"code": {"condition": "service_healthy"}}
    assert _seconds(SERVICES["code"]["stop_grace_period"]) >= 150


@pytest.mark.parametrize("name", OURS)
def test_our_services_write_nowhere_but_to_memory_and_have_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert set(service["tmpfs"]) == {"/tmp", dockerfile().environment["DAGSTER_HOME"]}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"]
    assert not {"user", "privileged", "volumes"} & service.keys()


def test_our_services_share_one_environment() -> None:
    assert all(SERVICES[name]["environment"] == SERVICES["code"]["environment"] for name in OURS)


def test_every_name_in_our_environment_is_a_setting_or_what_dagsters_files_read() -> None:
    known = {*setting_names(), *environment_of_dagster("celery/dagster.yaml", "workspace.yaml"), "DAGSTER_HOME"}
    assert set(SERVICES["code"]["environment"]) <= known
    assert known - {*setting_names()} <= set(SERVICES["code"]["environment"])


def test_our_environment_makes_valid_settings_that_reach_the_other_services(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)
    for name, value in SERVICES["code"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.kafka_brokers in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert settings.dynamo_endpoint
    assert settings.minio_endpoint
    assert {settings.dynamo_endpoint.host, settings.minio_endpoint.host} <= SERVICES.keys()
    assert SERVICES["code"]["environment"]["DAGSTER_GRPC_HOST"] in SERVICES
    assert SERVICES["code"]["environment"]["DAGSTER_POSTGRES_HOST"] in SERVICES


def test_servers_and_clients_get_the_same_secrets_from_one_variable() -> None:
    changed = compose({"MINIO_ACCESS_KEY": "one", "MINIO_SECRET_KEY": "two", "DAGSTER_POSTGRES_PASSWORD": "three"})["services"]
    ours, minio = changed["code"]["environment"], changed["minio"]["environment"]
    assert (
        (ours["MINIO_ACCESS_KEY"], ours["MINIO_SECRET_KEY"]) == (minio["MINIO_ROOT_USER"], minio["MINIO_ROOT_PASSWORD"]) == ("one", "two")
    )
    assert ours["DAGSTER_POSTGRES_PASSWORD"] == changed["postgres"]["environment"]["POSTGRES_PASSWORD"] == "three"


def test_no_secret_is_written_down_but_those_that_only_a_local_server_accepts() -> None:
    found = re.findall(
        r"^ *(\w*(?:PASSWORD|SECRET|ACCESS_KEY)\w*): (.+)$", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    local = {"fake", f"${{MINIO_ACCESS_KEY:-{_default('minio_access_key')}}}", f"${{MINIO_SECRET_KEY:-{_default('minio_secret_key')}}}"}
    assert {value for _, value in found} == local | {"${DAGSTER_POSTGRES_PASSWORD:-dagster}"}


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_every_server_keeps_its_data_in_a_volume_of_its_own() -> None:
    mounted = [volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert sorted(mounted) == sorted(COMPOSE["volumes"]) == sorted(set(SERVICES) - set(OURS))


def _default(field: str) -> str:
    default = Settings.model_fields[field].default
    return str(default.get_secret_value() if hasattr(default, "get_secret_value") else default)


def _seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])
