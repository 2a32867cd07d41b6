"""The first process of the container and its supervisor, with programs that only write what happens to them to a journal."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from analytics_defs.devstack.tcp_ports import LOOPBACK, free_port
from tests.deploy.files import DEPLOY, dockerfile
from tests.deploy.programs import Program, surroundings
from tests.devstack.waiting import until

PRELUDE = """\
import os, pathlib, signal, socket, subprocess, sys, time
home = pathlib.Path(os.environ["HOME"])
def write(line):
    with (home / "journal").open("a") as journal:
        journal.write(line + "\\n")
def run_until_sigterm(name):
    def end(*_):
        write(name + " ends")
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    write(name + " starts")
    while True:
        signal.pause()
"""
SERVE = """\
if sys.argv[1] == "serve":
    run_until_sigterm("health" if "DAGSTER_HOME" in os.environ else "first health")
"""
SETUP = "write('set up')"
DAGSTER = """\
if sys.argv[1] != "api":
    sys.exit(0)
listener = socket.create_server((os.environ["DAGSTER_GRPC_HOST"], int(os.environ["DAGSTER_GRPC_PORT"])))
run_until_sigterm("code")
"""
DAGSTER_WITH_A_RUN = """\
if sys.argv[1] != "api":
    sys.exit(0)
listener = socket.create_server((os.environ["DAGSTER_GRPC_HOST"], int(os.environ["DAGSTER_GRPC_PORT"])))
run = subprocess.Popen(["micro_batch"])
def end(*_):
    (home / "sigterm received").touch()
    write(f"run ended with {run.wait()}")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
write("code starts")
while True:
    signal.pause()
"""
MICRO_BATCH = """\
while not (home / "sigterm received").exists():
    time.sleep(0.05)
time.sleep(0.3)
"""


class Scene:
    """A container whose programs are replaced by scripts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = folder / "bin"
        self._programs.mkdir()
        self.home = folder / "state"
        self.scripts = {
            "analytics": SETUP,
            "sleep": "",
            "dagster": DAGSTER,
            "dagster-webserver": "run_until_sigterm('webserver')",
            "dagster-daemon": "run_until_sigterm('daemon')",
            "micro_batch": MICRO_BATCH,
        }
        self.serve_script = SERVE
        self.container: Program | None = None

    def start(self) -> Program:
        for name, script in self.scripts.items():
            path = self._programs / name
            serving = self.serve_script if name == "analytics" else ""
            path.write_text(f"#!{sys.executable}\n{PRELUDE}{serving}{script}\n", encoding="utf-8")
            path.chmod(0o755)
        local = {"DAGSTER_HOME": str(self.home), "DAGSTER_GRPC_PORT": str(free_port()), "DAGSTER_WEBSERVER_HOST": LOOPBACK}
        environment = {**dockerfile().environment, **local, **surroundings(self._folder, self._programs)}
        self.container = Program(dockerfile().command, environment, self._folder / "log")
        return self.container

    @property
    def complete_journal(self) -> list[str]:
        """Return the lines that the programs wrote, in order."""
        journal = self._folder / "journal"
        return journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []

    @property
    def journal(self) -> list[str]:
        """Return the journal without the health endpoint that runs during the setup."""
        return [line for line in self.complete_journal if not line.startswith("first health")]

    def await_lines(self, *lines: str) -> None:
        until(lambda: {*lines} <= {*self.journal})


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    if scene.container:
        scene.container.kill()


def test_programs_start_in_order_and_stop_in_reverse_order(scene: Scene) -> None:
    container = scene.start()
    scene.await_lines("daemon starts", "webserver starts", "health starts")
    assert scene.journal[0] == "set up"
    started = scene.journal[1:5]
    assert sorted(started) == ["code starts", "daemon starts", "health starts", "webserver starts"]
    assert started.index("code starts") < min(started.index("daemon starts"), started.index("webserver starts"))
    container.send_signal(signal.SIGTERM)
    assert container.end(20) == 0
    assert scene.journal[5:] == ["daemon ends", "webserver ends", "code ends", "health ends"]
    until(lambda: not container.session())


SLOW_SETUP = """\
while not (home / "continue").exists():
    time.sleep(0.05)
write("set up")
"""


def test_a_health_endpoint_runs_during_the_setup_and_is_replaced_after_it(scene: Scene, tmp_path: Path) -> None:
    """The first one runs without Dagster's instance, whose storage may not exist yet."""
    scene.scripts["analytics"] = SLOW_SETUP
    scene.start()
    until(lambda: scene.complete_journal == ["first health starts"])
    (tmp_path / "continue").touch()
    scene.await_lines("daemon starts", "health starts")  # in either order
    assert scene.complete_journal[:3] == ["first health starts", "set up", "first health ends"]


def test_a_health_endpoint_that_cannot_start_does_not_block_other_programs(scene: Scene) -> None:
    scene.scripts["analytics"] = "write('set up')"
    scene.serve_script = "if sys.argv[1] == 'serve' and 'DAGSTER_HOME' not in os.environ:\n    sys.exit(4)\n" + SERVE
    scene.start()
    scene.await_lines("daemon starts", "health starts")


def test_a_run_in_progress_finishes_before_the_container_stops(scene: Scene) -> None:
    scene.scripts["dagster"] = DAGSTER_WITH_A_RUN
    container = scene.start()
    scene.await_lines("daemon starts", "webserver starts", "health starts")
    container.send_signal(signal.SIGTERM)
    assert container.end(20) == 0
    assert scene.journal[-2:] == ["run ended with 0", "health ends"]


def test_a_program_that_keeps_failing_stops_the_container_with_status_1(scene: Scene) -> None:
    scene.scripts["dagster-webserver"] = "sys.exit(7)"
    container = scene.start()
    assert container.end(40) == 1, container.output
    assert [line for line in scene.journal if line.endswith("ends")] == ["daemon ends", "code ends", "health ends"]
    assert "supervisor stopped restarting webserver" in container.output


def test_the_setup_is_repeated_while_a_store_is_unavailable(scene: Scene) -> None:
    scene.scripts["analytics"] = (
        "write('set up'); tries = len((home / 'journal').read_text().split('up')) - 1; sys.exit(3 if tries < 3 else 0)"
    )
    scene.start()
    scene.await_lines("code starts")
    assert [line for line in scene.journal if line != "health starts"][:4] == ["set up", "set up", "set up", "code starts"]
    assert scene.journal[:3] == ["set up"] * 3


def test_a_rejected_setup_stops_the_container_with_its_status(scene: Scene) -> None:
    scene.scripts["analytics"] = "write('set up'); sys.exit(4)"
    assert scene.start().end(20) == 4
    assert scene.journal == ["set up"]


def test_a_signal_during_the_setup_stops_the_container_without_starting_programs(scene: Scene) -> None:
    scene.scripts["analytics"] = "run_until_sigterm('set up')"
    container = scene.start()
    scene.await_lines("set up starts")
    container.send_signal(signal.SIGTERM)
    assert container.end(20) == 0
    assert scene.journal == ["set up starts", "set up ends"]


@pytest.fixture
def instance_file() -> Callable[[str, dict[str, str]], str]:
    return _module("container").instance_file  # type: ignore[no-any-return]


def test_without_a_postgres_host_only_the_storage_changes_to_sqlite(instance_file: Callable[[str, dict[str, str]], str]) -> None:
    production = (DEPLOY / "dagster.yaml").read_text(encoding="utf-8")
    assert instance_file(production, {"DAGSTER_POSTGRES_HOST": "db"}) == production
    with_sqlite = yaml.safe_load(instance_file(production, {}))
    assert "storage" not in with_sqlite
    assert with_sqlite == {name: value for name, value in yaml.safe_load(production).items() if name != "storage"}


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
