"""The three real servers of one folder (`.servers`), for `make servers` and everybody who sources its `env`."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from analytics_defs.devstack import env_file, install
from analytics_defs.devstack.processes import ProcessRecord, end_group
from analytics_defs.devstack.servers import NativeServer, dynamodb_server, kafka_server, minio_server
from analytics_defs.errors import StartupFailed

ServerFactory = Callable[[Path], NativeServer]
ENDPOINTS = ("KAFKA_BROKERS", "DYNAMO_ENDPOINT", "MINIO_ENDPOINT")
SERVER_FACTORIES: dict[str, ServerFactory] = {"kafka": kafka_server, "dynamodb": dynamodb_server, "minio": minio_server}


def start(folder: Path) -> None:
    """Starts what does not run, on new ports and empty data, and writes `env`. Nothing to do where all three run.

    After a raise nothing runs and there is no `env`.
    """
    with _exclusive(folder):
        if _all_run(folder):
            click.echo(f"the servers already run; their settings are in {folder / 'env'}")
            return
        install.everything()
        _end(folder)
        try:
            settings = _start_all(folder)
        except BaseException:
            _end(folder)
            raise
        env_file.write_env_file(folder / "env", settings)
        for key in ENDPOINTS:
            click.echo(f"{key}={settings[key]}")
        click.echo(f"point a shell at them with: set -a; . {folder / 'env'}; set +a")


def stop(folder: Path) -> None:
    """Ends the servers that were started in this folder and removes their data. Nothing to do where none was."""
    if not folder.exists():
        click.echo(f"no servers were started in {folder}")
        return
    with _exclusive(folder):
        ended = _end(folder)
        click.echo(f"ended: {', '.join(ended)}" if ended else "no server was running")


def run_with(folder: Path, command: Sequence[str]) -> int:
    """Runs a command with real servers and returns its exit status.

    The servers are those the environment names; else those that run in `folder`; else its own there, which end with the command.
    """
    named = [key for key in ENDPOINTS if os.environ.get(key)]
    if named:
        missing = [key for key in ENDPOINTS if key not in named]
        if missing:
            raise StartupFailed(f"{', '.join(named)} set, but not {', '.join(missing)}: name all servers, or none")
        return _run(command, {})
    if _all_run(folder):
        return _run(command, env_file.read_env_file(folder / "env"))
    try:
        start(folder)
        return _run(command, env_file.read_env_file(folder / "env"))
    finally:
        stop(folder)


def _run(command: Sequence[str], settings: Mapping[str, str]) -> int:
    """SIGTERM is passed on, and this one waits for the command's own end, so that what comes after it happens."""
    process = subprocess.Popen(command, env=os.environ | settings)
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command by itself: it is in this terminal's group
    return process.wait()


def _start_all(folder: Path) -> dict[str, str]:
    servers = []
    for name, make in SERVER_FACTORIES.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        server = make(folder / name)
        click.echo(f"starting {server.name} at {server.address}, log in {server.log}")
        server.launch()
        servers.append(server)
    settings: dict[str, str] = {}
    for server in servers:
        server.await_ready()
        settings |= server.settings
    return settings


def _end(folder: Path) -> list[str]:
    (folder / "env").unlink(missing_ok=True)
    ended = []
    for name in SERVER_FACTORIES:
        record = ProcessRecord.load(folder / name / "process.json")
        if record is not None and (record.is_alive() or record.group()):
            end_group(record)
            ended.append(f"{name} (process {record.pid})")
        shutil.rmtree(folder / name, ignore_errors=True)
    return ended


def _all_run(folder: Path) -> bool:
    records = [ProcessRecord.load(folder / name / "process.json") for name in SERVER_FACTORIES]
    return (folder / "env").exists() and all(record is not None and record.is_alive() for record in records)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One `start` or `stop` of a folder at a time; the second waits for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise StartupFailed(f"{folder / 'lock'} cannot be locked: {error}") from error
        yield
