"""The container's first process and its supervisor, as configured, over programs that only say what happens to them."""

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
def say(what):
    with (home / "journal").open("a") as journal:
        journal.write(what + "\\n")
def live_until_term(name):
    def end(*_):
        say(name + " ends")
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    say(name + " starts")
    while True:
        signal.pause()
"""
SERVES = """\
if sys.argv[1] == "serve":
    live_until_term("health" if "DAGSTER_HOME" in os.environ else "first health")
"""
DOES_SET_UP = "say('set up')"
DAGSTER = """\
if sys.argv[1] != "api":
    sys.exit(0)
listener = socket.create_server((os.environ["DAGSTER_GRPC_HOST"], int(os.environ["DAGSTER_GRPC_PORT"])))
live_until_term("code")
"""
DAGSTER_WITH_A_RUN = """\
if sys.argv[1] != "api":
    sys.exit(0)
listener = socket.create_server((os.environ["DAGSTER_GRPC_HOST"], int(os.environ["DAGSTER_GRPC_PORT"])))
run = subprocess.Popen(["micro_batch"])
def end(*_):
    (home / "told").touch()
    say(f"run ended with {run.wait()}")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
say("code starts")
while True:
    signal.pause()
"""
MICRO_BATCH = """\
while not (home / "told").exists():
    time.sleep(0.05)
time.sleep(0.3)
"""


class Scene:
    """A container whose programs are these scripts, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = folder / "bin"
        self._programs.mkdir()
        self.home = folder / "state"
        self.scripts = {
            "analytics": DOES_SET_UP,
            "sleep": "",
            "dagster": DAGSTER,
            "dagster-webserver": "live_until_term('webserver')",
            "dagster-daemon": "live_until_term('daemon')",
            "micro_batch": MICRO_BATCH,
        }
        self.serves = SERVES
        self.container: Program | None = None

    def start(self) -> Program:
        for name, script in self.scripts.items():
            path = self._programs / name
            serving = self.serves if name == "analytics" else ""
            path.write_text(f"#!{sys.executable}\n{PRELUDE}{serving}{script}\n", encoding="utf-8")
            path.chmod(0o755)
        places = {"DAGSTER_HOME": str(self.home), "DAGSTER_GRPC_PORT": str(free_port()), "DAGSTER_WEBSERVER_HOST": LOOPBACK}
        environment = {**dockerfile().environment, **places, **surroundings(self._folder, self._programs)}
        self.container = Program(dockerfile().command, environment, self._folder / "log")
        return self.container

    @property
    def told(self) -> list[str]:
        """What the programs said, in order."""
        journal = self._folder / "journal"
        return journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []

    @property
    def journal(self) -> list[str]:
        """The same without the endpoint that answers during set-up."""
        return [line for line in self.told if not line.startswith("first health")]

    def until_said(self, *what: str) -> None:
        until(lambda: {*what} <= {*self.journal})


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path)
    yield found
    if found.container:
        found.container.kill()


def test_programs_start_after_the_code_server_and_end_before_it_daemon_first_and_the_health_job_last(scene: Scene) -> None:
    container = scene.start()
    scene.until_said("daemon starts", "webserver starts", "health starts")
    assert scene.journal[0] == "set up"
    started = scene.journal[1:5]
    assert sorted(started) == ["code starts", "daemon starts", "health starts", "webserver starts"]
    assert started.index("code starts") < min(started.index("daemon starts"), started.index("webserver starts"))
    container.tell(signal.SIGTERM)
    assert container.end(20) == 0
    assert scene.journal[5:] == ["daemon ends", "webserver ends", "code ends", "health ends"]
    until(lambda: not container.session())


DOES_SET_UP_SLOWLY = """\
while not (home / "go on").exists():
    time.sleep(0.05)
say("set up")
"""


def test_the_endpoint_answers_before_set_up_has_ended_and_another_takes_its_place(scene: Scene, tmp_path: Path) -> None:
    """It does not know of Dagster's instance, whose storage is not there yet."""
    scene.scripts["analytics"] = DOES_SET_UP_SLOWLY
    scene.start()
    until(lambda: scene.told == ["first health starts"])
    (tmp_path / "go on").touch()
    scene.until_said("daemon starts")
    assert scene.told[:3] == ["first health starts", "set up", "first health ends"]
    assert "health starts" in scene.told[3:]


def test_an_endpoint_that_cannot_start_keeps_nothing_else_from_starting(scene: Scene) -> None:
    scene.scripts["analytics"] = "say('set up')"
    scene.serves = "if sys.argv[1] == 'serve' and 'DAGSTER_HOME' not in os.environ:\n    sys.exit(4)\n" + SERVES
    scene.start()
    scene.until_said("daemon starts", "health starts")


def test_a_run_at_work_is_waited_for_and_hears_of_no_signal(scene: Scene) -> None:
    scene.scripts["dagster"] = DAGSTER_WITH_A_RUN
    container = scene.start()
    scene.until_said("daemon starts", "webserver starts", "health starts")
    container.tell(signal.SIGTERM)
    assert container.end(20) == 0
    assert scene.journal[-2:] == ["run ended with 0", "health ends"]


def test_a_program_that_cannot_be_kept_running_ends_the_container_with_1_and_the_others_in_order(scene: Scene) -> None:
    scene.scripts["dagster-webserver"] = "sys.exit(7)"
    container = scene.start()
    assert container.end(40) == 1, container.output
    assert [line for line in scene.journal if line.endswith("ends")] == ["daemon ends", "code ends", "health ends"]
    assert "supervisor stopped restarting webserver" in container.output


def test_set_up_is_repeated_while_a_store_does_not_answer(scene: Scene) -> None:
    scene.scripts["analytics"] = (
        "say('set up'); tries = len((home / 'journal').read_text().split('up')) - 1; sys.exit(3 if tries < 3 else 0)"
    )
    scene.start()
    scene.until_said("code starts")
    assert [line for line in scene.journal if line != "health starts"][:4] == ["set up", "set up", "set up", "code starts"]
    assert scene.journal[:3] == ["set up"] * 3


def test_set_up_that_is_refused_ends_the_container_with_its_status_before_anything_is_started(scene: Scene) -> None:
    scene.scripts["analytics"] = "say('set up'); sys.exit(4)"
    assert scene.start().end(20) == 4
    assert scene.journal == ["set up"]


def test_a_container_told_to_stop_during_set_up_stops_it_and_starts_nothing(scene: Scene) -> None:
    scene.scripts["analytics"] = "live_until_term('set up')"
    container = scene.start()
    scene.until_said("set up starts")
    container.tell(signal.SIGTERM)
    assert container.end(20) == 0
    assert scene.journal == ["set up starts", "set up ends"]


@pytest.fixture
def instance_file() -> Callable[[str, dict[str, str]], str]:
    return _module("container").instance_file  # type: ignore[no-any-return]


def test_storage_is_sqlite_unless_a_postgres_is_named_and_nothing_else_differs(instance_file: Callable[[str, dict[str, str]], str]) -> None:
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
