from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from analytics_defs.devstack import venv
from analytics_defs.devstack.venv import PipOutput, Progress, create, failure_message

ROOT = Path(__file__).parents[2]
FAKE_PIP = """
import pathlib, sys
if "fail" in sys.argv:
    print("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    raise SystemExit(1)
print("Collecting dagster")
print("Installing collected packages: dagster, click")
"""


class FakeEnvironment:
    """Stands in for `venv` and pip: a `.venv` whose interpreter prints what pip prints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.commands: list[list[str]] = []
        self.arguments: list[str] = []
        self.lines: list[str] = []
        (folder / "pip.py").write_text(FAKE_PIP)
        monkeypatch.chdir(folder)
        monkeypatch.setattr("shutil.which", lambda _: None)
        real_popen = subprocess.Popen

        def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            self.commands.append(command)
            (folder / ".venv/lib/python3/site-packages").mkdir(parents=True)
            return subprocess.CompletedProcess(command, 0, "")

        def popen(command: list[str], **options: object) -> object:
            self.commands.append(command)
            return real_popen([sys.executable, "pip.py", *self.arguments], **options)  # type: ignore[call-overload]

        monkeypatch.setattr("subprocess.run", run)
        monkeypatch.setattr("subprocess.Popen", popen)

    def create(self, kind: str) -> None:
        create(kind, Progress(self.lines.append, is_terminal=False))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEnvironment:
    return FakeEnvironment(monkeypatch, tmp_path)


@pytest.mark.parametrize(("kind", "complete"), [("run", {"run"}), ("dev", {"run", "dev"})])
def test_a_complete_environment_is_marked_with_what_it_contains(environment: FakeEnvironment, kind: str, complete: set[str]) -> None:
    environment.create(kind)
    assert {name for name in ("run", "dev") if Path(".venv", name).exists()} == complete
    assert environment.commands[-1][-1] == f".[{venv.EXTRAS[kind]}]"


def test_an_interrupted_environment_is_created_again(environment: FakeEnvironment) -> None:
    Path(".venv/half").mkdir(parents=True)
    environment.create("run")
    assert not Path(".venv/half").exists()
    assert environment.lines[0] == "removing .venv: an earlier installation did not finish\n"


def test_packages_are_added_to_a_complete_environment(environment: FakeEnvironment) -> None:
    environment.create("run")
    Path(".venv/kept").touch()
    environment.create("dev")
    assert Path(".venv/kept").exists()


def test_a_failed_installation_is_explained_and_not_marked(environment: FakeEnvironment) -> None:
    environment.arguments = ["fail"]
    with pytest.raises(SystemExit, match=r"No space left(.|\n)*error: the packages were not installed. The disk is full."):
        environment.create("run")
    assert not Path(".venv/run").exists()


def test_the_cause_of_a_failure_is_named_if_it_is_known() -> None:
    no_network = "ERROR: Could not find a version that satisfies the requirement click (from versions: none)"
    assert "The package index is not reachable" in failure_message([no_network])
    assert "Correct the cause" in failure_message(["ERROR: something else"])


def test_progress_counts_found_and_installed_packages(tmp_path: Path) -> None:
    (tmp_path / "pip-25.dist-info").mkdir()
    output = PipOutput(tmp_path)
    output.feed("Collecting dagster")
    output.feed("  Downloading dagster.whl")
    assert output.describe() == "resolving and downloading packages: 1 found"
    output.feed("Installing collected packages: click, dagster")
    (tmp_path / "click-8.dist-info").mkdir()
    assert output.describe() == "installing packages: 1 of 2"


def test_a_terminal_shows_one_line_that_changes() -> None:
    written: list[str] = []
    progress = Progress(written.append, is_terminal=True)
    progress.show("1 of 2")
    progress.end("done")
    assert "".join(written) == "\r\033[K1 of 2\r\033[Kdone\n"


def test_no_lock_or_constraints_file_has_an_address() -> None:
    assert "://" not in (ROOT / "constraints.txt").read_text()
