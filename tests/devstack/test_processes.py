from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from analytics_defs.devstack.processes import ProcessRecord, end_group, last_lines, spawn
from tests.devstack.waiting import until

SLEEPER = ("/bin/sleep", "600")
PARENT_AND_STUBBORN_CHILD = ("/bin/sh", "-c", "trap '' INT TERM; sleep 600 & trap - INT TERM; echo up; wait")
SHORT = timedelta(seconds=0.3)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


@pytest.fixture
def sleeper(log: Path) -> Iterator[ProcessRecord]:
    record = spawn(SLEEPER, log=log, environment={})
    yield record
    end_group(record, first=signal.SIGKILL)


def test_a_record_survives_the_program_that_wrote_it(sleeper: ProcessRecord, tmp_path: Path) -> None:
    sleeper.save(tmp_path / "record")
    loaded = ProcessRecord.load(tmp_path / "record")
    assert loaded == sleeper
    assert loaded.is_alive()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_an_incomplete_record_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "record").write_text(text)
    assert ProcessRecord.load(tmp_path / "record") is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems report the start time by the system clock only")
def test_a_process_is_recognized_after_the_clock_was_set(sleeper: ProcessRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks: after a suspend of the machine, `make servers-stop` does not stop the servers."""
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + 3600)
    assert sleeper.is_alive()
    assert sleeper.group() == [sleeper.pid]


def test_a_process_with_a_reused_id_is_not_stopped(sleeper: ProcessRecord) -> None:
    earlier = replace(sleeper, started=sleeper.started - 3600)
    assert not earlier.is_alive()
    end_group(earlier)
    assert sleeper.is_alive()


def test_ending_a_group_kills_children_that_ignore_signals(log: Path) -> None:
    record = spawn(PARENT_AND_STUBBORN_CHILD, log=log, environment={})
    until(lambda: "up" in log.read_text())
    children = psutil.Process(record.pid).children()
    assert len(children) == 1
    end_group(record, grace=SHORT)
    assert not record.is_alive()
    assert record.group() == []
    assert not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE


def test_a_group_is_found_after_its_leader_ended(log: Path) -> None:
    record = spawn(PARENT_AND_STUBBORN_CHILD, log=log, environment={})
    until(lambda: "up" in log.read_text())
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not record.is_alive())
    assert len(record.group()) == 1
    end_group(record, grace=SHORT)
    assert record.group() == []


def test_ending_a_group_is_idempotent(sleeper: ProcessRecord) -> None:
    end_group(sleeper)
    end_group(sleeper)
    assert not sleeper.is_alive()


def test_a_spawned_process_handles_signals_that_its_parent_ignores(tmp_path: Path) -> None:
    """A background job of a non-interactive shell ignores SIGINT."""
    program = (
        "import signal, sys; from pathlib import Path; from analytics_defs.devstack.processes import spawn\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"print(spawn({SLEEPER!r}, log=Path(sys.argv[1]), environment={{}}).pid)"
    )
    process = subprocess.run([sys.executable, "-c", program, str(tmp_path / "log")], capture_output=True, check=True, text=True)
    record = ProcessRecord.of(int(process.stdout))
    os.kill(record.pid, signal.SIGINT)
    until(lambda: not record.is_alive())


def test_the_last_lines_of_a_log_may_contain_invalid_utf8(log: Path) -> None:
    log.write_bytes(b"one\ntwo \xff\nthree\n")
    assert last_lines(log, 2) == "two \N{REPLACEMENT CHARACTER}\nthree"
