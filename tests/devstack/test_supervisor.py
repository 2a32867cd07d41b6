from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from analytics_defs.devstack import env_file, supervisor
from analytics_defs.devstack.processes import ProcessRecord
from analytics_defs.errors import StartupFailed
from tests.devstack import tiny_stack
from tests.devstack.waiting import until

MARK = "TINY_STACK"


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the value of an environment variable that all child processes of the test inherit."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    yield value
    for process in _marked(value):
        process.kill()


def _marked(mark: str) -> list[psutil.Process]:
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return processes


def _start(folder: Path) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, tiny_stack.__file__, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until((folder / "env").exists)
    return started


def _assert_nothing_is_left(folder: Path, temporary: Path, mark: str) -> None:
    assert _marked(mark) == []
    assert not temporary.exists()
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "logs"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_process_and_removes_every_temporary_file(tmp_path: Path, mark: str, number: signal.Signals) -> None:
    started = _start(tmp_path)
    temporary = Path(env_file.read_env_file(tmp_path / "env")["TEMPORARY"])
    assert len(list(temporary.iterdir())) == 2
    assert len(_marked(mark)) == 5
    started.send_signal(number)
    output, _ = started.communicate(timeout=20)
    assert (output, started.returncode) == ("stopped\n", 0)
    _assert_nothing_is_left(tmp_path, temporary, mark)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stack_in_the_background_of_a_script_stops_on_a_signal(tmp_path: Path, mark: str, number: signal.Signals) -> None:
    """A shell starts background jobs with SIGINT ignored."""
    script = '"$0" "$1" "$2" & echo $! > "$2.pid"; wait'
    folder = tmp_path / "stack"
    with subprocess.Popen(["/bin/sh", "-c", script, sys.executable, tiny_stack.__file__, str(folder)], stdout=subprocess.DEVNULL) as shell:
        until((folder / "env").exists)
        temporary = Path(env_file.read_env_file(folder / "env")["TEMPORARY"])
        os.kill(int((tmp_path / "stack.pid").read_text()), number)
        assert shell.wait(timeout=20) == 0
    _assert_nothing_is_left(folder, temporary, mark)


def test_the_next_start_stops_programs_that_a_killed_stack_left_running(tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE", timedelta(seconds=0.5))
    killed = _start(tmp_path)
    temporary = Path(env_file.read_env_file(tmp_path / "env")["TEMPORARY"])
    killed.kill()
    killed.communicate()
    orphans = _marked(mark)
    assert len(orphans) == 4
    with supervisor.supervised(tmp_path):
        assert not any(orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE for orphan in orphans)
    _assert_nothing_is_left(tmp_path, temporary, mark)


def test_a_second_stack_in_the_same_folder_is_rejected(tmp_path: Path) -> None:
    with supervisor.supervised(tmp_path) as first:
        first.start("sleeper", ("/bin/sleep", "600"), {})
        with (
            pytest.raises(StartupFailed, match=f"already running in {tmp_path}, as process {os.getpid()}"),
            supervisor.supervised(tmp_path),
        ):
            pytest.fail("two stacks are running in one folder")
        record = ProcessRecord.load(tmp_path / "processes" / "sleeper")
        assert record is not None
        assert record.is_alive()


def test_a_program_that_ends_by_itself_ends_the_stack_and_its_log_is_shown(tmp_path: Path, mark: str) -> None:
    with supervisor.supervised(tmp_path) as stack:
        stack.start("sleeper", ("/bin/sleep", "600"), {})
        stack.start("victim", ("/bin/sh", "-c", "echo out of luck; exit 1"), {})
        with pytest.raises(StartupFailed, match=r"victim ended by itself.*\n.*out of luck"):
            stack.watch()
    assert _marked(mark) == []


def test_of_programs_of_one_kind_all_but_the_last_may_end_by_themselves(
    tmp_path: Path, mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killing one worker of `make dev-celery` does not end the stack."""
    with supervisor.supervised(tmp_path) as stack:
        for name in ("one", "two"):
            stack.start(name, ("/bin/sh", "-c", f"until [ -e {tmp_path}/end-{name} ]; do sleep 0.05; done"), {}, kind="worker")
        (tmp_path / "end-one").touch()
        stack.wait_until(lambda: "one ended by itself" in capsys.readouterr().out, what="the message", limit=timedelta(seconds=20))
        (tmp_path / "end-two").touch()
        with pytest.raises(StartupFailed, match="two ended by itself"):
            stack.watch()
    assert _marked(mark) == []


def test_a_wait_that_takes_too_long_names_the_condition(tmp_path: Path) -> None:
    with supervisor.supervised(tmp_path) as stack, pytest.raises(StartupFailed, match="the condition took longer than 0 s"):
        stack.wait_until(lambda: False, what="the condition", limit=timedelta())


def test_a_command_that_fails_is_named_with_its_status(tmp_path: Path) -> None:
    with supervisor.supervised(tmp_path) as stack, pytest.raises(StartupFailed, match="`/bin/sh -c 'exit 3'` failed with status 3"):
        stack.run(("/bin/sh", "-c", "exit 3"), {}, limit=timedelta(seconds=20))


def test_a_stop_request_during_a_command_ends_the_command(tmp_path: Path, mark: str) -> None:
    with supervisor.supervised(tmp_path) as stack:
        stack.request_stop()
        with pytest.raises(supervisor.StopRequested):
            stack.run(("/bin/sleep", "600"), {}, limit=timedelta(seconds=20))
    assert _marked(mark) == []
