from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from analytics_defs.devstack import env_file, install, server_group
from analytics_defs.devstack.processes import ProcessRecord
from analytics_defs.devstack.servers import NativeServer
from analytics_defs.devstack.tcp_ports import accepts, free_port
from analytics_defs.errors import StartupFailed

LISTEN = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"
FAIL = "print('no room left'); raise SystemExit(1)"


def _tiny(key: str, program: str = LISTEN) -> server_group.ServerFactory:
    def make(folder: Path) -> NativeServer:
        folder.mkdir(parents=True)
        port = free_port()
        command = (sys.executable, "-c", program, str(port))
        return NativeServer(key, folder, port, command, {key: f"127.0.0.1:{port}"}, accepts)

    return make


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder whose three servers only listen."""
    monkeypatch.setattr(server_group, "SERVER_FACTORIES", {key.lower(): _tiny(key) for key in server_group.ENDPOINTS})
    monkeypatch.setattr(install, "install_servers", lambda: None)
    for key in server_group.ENDPOINTS:
        monkeypatch.delenv(key, raising=False)
    yield tmp_path / ".servers"
    server_group.stop(tmp_path / ".servers")


def _processes(folder: Path) -> list[ProcessRecord]:
    records = [ProcessRecord.load(path) for path in sorted(folder.glob("*/process.json"))]
    return [record for record in records if record is not None and record.is_alive()]


def test_servers_are_started_and_their_settings_written(folder: Path) -> None:
    server_group.start(folder)
    assert len(_processes(folder)) == 3
    settings = env_file.read_env_file(folder / "env")
    assert list(settings) == list(server_group.ENDPOINTS)
    assert all(accepts(int(address.rpartition(":")[2])) for address in settings.values())


def test_starting_running_servers_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server_group.start(folder)
    before = _processes(folder), env_file.read_env_file(folder / "env")
    server_group.start(folder)
    assert (_processes(folder), env_file.read_env_file(folder / "env")) == before
    assert "the servers are already running" in capsys.readouterr().out


def test_two_concurrent_starts_start_one_set_of_servers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for start in [pool.submit(server_group.start, folder) for _ in range(2)]:
            start.result()
    output = capsys.readouterr().out
    assert (output.count("starting"), output.count("already running")) == (3, 1)
    assert len(_processes(folder)) == 3


def test_stopping_ends_all_servers_and_is_idempotent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server_group.start(folder)
    running = _processes(folder)
    server_group.stop(folder)
    assert not any(record.is_alive() for record in running)
    assert [path.name for path in folder.iterdir()] == ["lock"]
    server_group.stop(folder)
    assert "no server was running" in capsys.readouterr().out


def test_if_one_server_fails_to_start_all_are_stopped_and_its_log_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server_group.SERVER_FACTORIES, "minio_endpoint", _tiny("MINIO_ENDPOINT", FAIL))
    with pytest.raises(StartupFailed, match=r"ended while starting(.|\n)*no room left"):
        server_group.start(folder)
    assert _processes(folder) == []
    assert not (folder / "env").exists()


def test_a_missing_tool_fails_before_anything_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise StartupFailed("java is missing")

    monkeypatch.setattr(install, "install_servers", refuse)
    with pytest.raises(StartupFailed, match="java is missing"):
        server_group.start(folder)
    assert _processes(folder) == []


def test_a_command_gets_temporary_servers_and_its_exit_status_is_returned(folder: Path) -> None:
    script = f'cp {folder}/env {folder.parent}/seen; test -n "$MINIO_ENDPOINT" && exit 7'
    assert server_group.run_with(folder, ("/bin/sh", "-c", script)) == 7
    assert list(env_file.read_env_file(folder.parent / "seen")) == list(server_group.ENDPOINTS)
    assert _processes(folder) == []


def test_a_command_uses_running_servers_and_does_not_stop_them(folder: Path) -> None:
    server_group.start(folder)
    running = _processes(folder)
    assert (
        server_group.run_with(
            folder, ("/bin/sh", "-c", f'test "$KAFKA_BROKERS" = {env_file.read_env_file(folder / "env")["KAFKA_BROKERS"]}')
        )
        == 0
    )
    assert _processes(folder) == running


def test_servers_in_the_environment_are_used_and_none_is_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in server_group.ENDPOINTS:
        monkeypatch.setenv(key, f"{key.lower()}.example:1")
    assert server_group.run_with(folder, ("/bin/sh", "-c", 'test "$KAFKA_BROKERS" = kafka_brokers.example:1')) == 0
    assert not folder.exists()


def test_an_incomplete_set_of_servers_in_the_environment_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", "kafka.example:9092")
    with pytest.raises(StartupFailed, match="KAFKA_BROKERS set, but not DYNAMO_ENDPOINT, MINIO_ENDPOINT"):
        server_group.run_with(folder, ("/bin/true",))
