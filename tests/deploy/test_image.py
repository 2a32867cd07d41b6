"""The guarantees of the Dockerfile and the supervisor configuration, checked in the files."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import shlex
import shutil
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

from analytics_defs.config import setting_names
from tests.deploy.files import DEPLOY, ROOT, VENV, dockerfile, environment_of_dagster

IMAGE = dockerfile()
SUPERVISOR = configparser.RawConfigParser(inline_comment_prefixes=(";",))
SUPERVISOR.read(DEPLOY / "supervisord.conf")
PROGRAMS = [section for section in SUPERVISOR.sections() if section.startswith("program:")]


def test_every_copied_file_exists_and_is_in_the_build_context() -> None:
    included = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert set(IMAGE.copied) == included
    assert all((ROOT / source).exists() for source in IMAGE.copied)


def test_the_image_has_the_python_version_of_the_package() -> None:
    version = re.search(r"^ARG PYTHON=(\d+\.\d+)-slim", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    assert f'requires-python = ">={version[1]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all("${PYTHON}" in stage for stage in IMAGE.stages)


def test_the_image_runs_as_an_unprivileged_user() -> None:
    user = IMAGE.user.partition(":")[0]
    assert user.isdigit()
    assert int(user) > 0
    assert any(f"--uid {user} " in line for line in IMAGE.installs)


def test_the_constraints_pin_every_dependency_to_the_tested_version() -> None:
    assert any('--constraint constraints.txt ".[${EXTRAS}]"' in line for line in IMAGE.installs)
    assert "ARG EXTRAS=production,celery\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    pins = {_canonical(name): version for name, version in pinned.items()}
    needed = set(_closure("analytics-defs", frozenset({"production", "celery", "kubernetes"}), set()))
    assert {name: importlib.metadata.version(name) for name in needed - {"analytics-defs"}}.items() <= pins.items()


def test_every_environment_variable_is_a_setting_or_a_variable_of_dagster() -> None:
    dagster = {"DAGSTER_HOME", "DAGSTER_WEBSERVER_HOST", "DAGSTER_WEBSERVER_PORT", *environment_of_dagster()}
    assert set(IMAGE.environment) <= {"PATH", "PYTHONUNBUFFERED", *setting_names(), *dagster}


def test_postgres_needs_only_host_and_password() -> None:
    assert environment_of_dagster() - IMAGE.environment.keys() == {"DAGSTER_POSTGRES_HOST", "DAGSTER_POSTGRES_PASSWORD"}


@pytest.mark.parametrize("section", [*PROGRAMS, "eventlistener:exit_on_fatal"])
def test_every_program_of_the_container_exists(section: str) -> None:
    words = shlex.split(SUPERVISOR[section]["command"])
    scripts = [DEPLOY / word.removeprefix("%(here)s/") for word in words if word.startswith("%(here)s/")]
    assert all(script.exists() for script in scripts)
    commands = [words[0], *([words[2]] if "wait_for_code_server.py" in words[1] else [])]
    assert all(shutil.which(command, path=str(VENV)) for command in commands)


def test_the_daemon_stops_first_and_the_health_endpoint_last() -> None:
    by_priority = sorted(PROGRAMS, key=lambda section: int(SUPERVISOR[section]["priority"]))
    waits = {section: int(SUPERVISOR[section]["stopwaitsecs"]) for section in by_priority}
    assert (*by_priority[:2], by_priority[-1]) == ("program:health", "program:code", "program:daemon")
    assert sum(waits.values()) <= 145
    assert waits["program:code"] >= 100


@pytest.mark.parametrize("section", PROGRAMS)
def test_every_program_is_restarted_and_logs_to_the_container_output(section: str) -> None:
    program = SUPERVISOR[section]
    assert program["autorestart"] == "true"
    assert program["killasgroup"] == "true"
    assert (program["stdout_logfile"], program["stdout_logfile_maxbytes"], program["redirect_stderr"]) == ("/dev/fd/1", "0", "true")


def _closure(name: str, extras: frozenset[str], seen: set[str]) -> Iterator[str]:
    """Yield a distribution and all its installed dependencies on this platform."""
    name = _canonical(name)
    if name in seen:
        return
    seen.add(name)
    yield name
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield from _closure(requirement.name, frozenset(requirement.extras), seen)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
