"""The guarantees of docker-compose.yml, checked in the file."""

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
PLATFORM_SERVICES = [name for name, service in SERVICES.items() if "build" in service]
LONG_RUNNING = [name for name in SERVICES if name != "setup"]


def test_the_image_is_built_for_setup_dagster_the_worker_and_the_health_endpoint() -> None:
    assert PLATFORM_SERVICES == ["setup", "code", "worker", "webserver", "daemon", "health"]


def test_the_celery_profile_adds_redis_and_workers_and_changes_dagster_home() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"redis", "worker"}
    assert Path(SERVICES["daemon"]["environment"]["DAGSTER_HOME"]) == Path("/app/deploy")
    environment = compose({"COMPOSE_PROFILES": SERVICES["worker"]["profiles"][0], "LANES": "8"})["services"]["daemon"]["environment"]
    assert (environment["DAGSTER_HOME"], environment["LANES"]) == ("/app/deploy/celery", "8")
    assert (DEPLOY / "celery" / "dagster.yaml").exists()
    assert environment["DAGSTER_CELERY_BROKER"].startswith("redis://redis:")


def test_redis_writes_a_message_to_disk_before_it_confirms_it() -> None:
    words = SERVICES["redis"]["command"]
    assert (words[words.index("--appendonly") + 1], words[words.index("--appendfsync") + 1]) == ("yes", "always")


def test_a_worker_can_be_scaled_and_has_time_to_finish_its_runs() -> None:
    assert _seconds(SERVICES["worker"]["stop_grace_period"]) >= 150
    assert not {"container_name", "hostname", "ports"} & SERVICES["worker"].keys()


def test_the_health_service_has_no_dependencies_and_the_port_of_the_image() -> None:
    health = SERVICES["health"]
    assert "depends_on" not in health
    assert (
        "RUN_HEALTH_IN_DAGSTER" not in health["environment"].keys() | dockerfile().environment.keys()
    )  # the service is a separate process
    assert health["ports"] == ["127.0.0.1:8080:" + dockerfile().environment["HEALTH_PORT"]]
    assert f"http://127.0.0.1:{dockerfile().environment['HEALTH_PORT']}/health/live" in health["healthcheck"]["test"][-1]


def test_server_images_are_pinned_to_the_releases_of_the_local_servers() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if name not in PLATFORM_SERVICES}
    assert images["kafka"] == f"apache/kafka:{KAFKA_VERSION}"
    assert images["dynamodb"] == f"amazon/dynamodb-local:{DYNAMODB_LOCAL_VERSION}"
    assert all(re.fullmatch(r"\S+:\S*\d+\.\d+\S*|\S+:RELEASE\.\d{4}-\S+", image) for image in images.values()), images


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_every_service_has_a_health_check_a_restart_policy_and_a_grace_period(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["healthcheck"]["start_period"]
    assert service["restart"] == "unless-stopped"
    assert _seconds(service["stop_grace_period"]) >= 15


def test_setup_runs_once_after_healthy_servers_and_before_the_code_server() -> None:
    setup = SERVICES["setup"]
    assert (setup["restart"], setup["healthcheck"]) == ("no", {"disable": True})
    assert setup["depends_on"] == {name: {"condition": "service_healthy"} for name in ("kafka", "dynamodb", "minio")}
    assert SERVICES["code"]["depends_on"]["setup"] == {"condition": "service_completed_successfully"}


def test_daemon_and_webserver_stop_before_the_code_server() -> None:
    """Compose stops services in reverse dependency order. The code server gets time to finish its runs."""
    assert SERVICES["daemon"]["depends_on"] == SERVICES["webserver"]["depends_on"] == {"code": {"condition": "service_healthy"}}
    assert _seconds(SERVICES["code"]["stop_grace_period"]) >= 150


@pytest.mark.parametrize("name", PLATFORM_SERVICES)
def test_platform_services_are_unprivileged_and_write_only_to_tmpfs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert set(service["tmpfs"]) == {"/tmp", dockerfile().environment["DAGSTER_HOME"]}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"]
    assert not {"user", "privileged", "volumes"} & service.keys()


def test_platform_services_share_one_environment() -> None:
    assert all(SERVICES[name]["environment"] == SERVICES["code"]["environment"] for name in PLATFORM_SERVICES)


def test_every_environment_variable_is_a_setting_or_a_variable_of_dagster() -> None:
    known = {*setting_names(), *environment_of_dagster("celery/dagster.yaml", "workspace.yaml"), "DAGSTER_HOME"}
    assert set(SERVICES["code"]["environment"]) <= known
    assert known - {*setting_names()} <= set(SERVICES["code"]["environment"])


def test_the_environment_has_valid_settings_with_the_hosts_of_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
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
    code, minio = changed["code"]["environment"], changed["minio"]["environment"]
    assert (
        (code["MINIO_ACCESS_KEY"], code["MINIO_SECRET_KEY"]) == (minio["MINIO_ROOT_USER"], minio["MINIO_ROOT_PASSWORD"]) == ("one", "two")
    )
    assert code["DAGSTER_POSTGRES_PASSWORD"] == changed["postgres"]["environment"]["POSTGRES_PASSWORD"] == "three"


def test_the_file_contains_only_secrets_of_local_servers() -> None:
    secrets = re.findall(
        r"^ *(\w*(?:PASSWORD|SECRET|ACCESS_KEY)\w*): (.+)$", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    local = {"fake", f"${{MINIO_ACCESS_KEY:-{_default('minio_access_key')}}}", f"${{MINIO_SECRET_KEY:-{_default('minio_secret_key')}}}"}
    assert {value for _, value in secrets} == local | {"${DAGSTER_POSTGRES_PASSWORD:-dagster}"}


def test_ports_are_published_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_every_server_has_its_own_volume() -> None:
    mounted = [volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert sorted(mounted) == sorted(COMPOSE["volumes"]) == sorted(set(SERVICES) - set(PLATFORM_SERVICES))


def _default(field: str) -> str:
    default = Settings.model_fields[field].default
    return str(default.get_secret_value() if hasattr(default, "get_secret_value") else default)


def _seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])
