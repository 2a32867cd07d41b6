"""The three real servers of one folder (`.servers`), for `make servers`. Clients source the file `env` in it."""

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
    """Start the servers on new ports with empty data, and write `env`. Do nothing if all three are running.

    After an error, no server is running and `env` does not exist.
    """
    with _exclusive(folder):
        if _all_running(folder):
            click.echo(f"the servers are already running; their settings are in {folder / 'env'}")
            return
        install.install_servers()
        _stop_all(folder)
        try:
            settings = _start_all(folder)
        except BaseException:
            _stop_all(folder)
            raise
        env_file.write_env_file(folder / "env", settings)
        for key in ENDPOINTS:
            click.echo(f"{key}={settings[key]}")
        click.echo(f"to use them in a shell: set -a; . {folder / 'env'}; set +a")


def stop(folder: Path) -> None:
    """Stop the servers that were started in this folder and delete their data. Idempotent."""
    if not folder.exists():
        click.echo(f"no servers were started in {folder}")
        return
    with _exclusive(folder):
        stopped = _stop_all(folder)
        click.echo(f"stopped: {', '.join(stopped)}" if stopped else "no server was running")


def run_with(folder: Path, command: Sequence[str]) -> int:
    """Run a command with real servers and return its exit status.

    The servers are those in the environment, otherwise those running in `folder`, otherwise new ones in `folder`
    that are stopped after the command.
    """
    present = [key for key in ENDPOINTS if os.environ.get(key)]
    if present:
        missing = [key for key in ENDPOINTS if key not in present]
        if missing:
            raise StartupFailed(f"{', '.join(present)} set, but not {', '.join(missing)}: set all of them or none")
        return _run(command, {})
    if _all_running(folder):
        return _run(command, env_file.read_env_file(folder / "env"))
    try:
        start(folder)
        return _run(command, env_file.read_env_file(folder / "env"))
    finally:
        stop(folder)


def _run(command: Sequence[str], settings: Mapping[str, str]) -> int:
    """Run a command to its end. SIGTERM is passed on to it, so that the caller's cleanup still runs."""
    process = subprocess.Popen(command, env=os.environ | settings)
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command receives Ctrl-C from the terminal: it is in the same process group
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


def _stop_all(folder: Path) -> list[str]:
    (folder / "env").unlink(missing_ok=True)
    stopped = []
    for name in SERVER_FACTORIES:
        record = ProcessRecord.load(folder / name / "process.json")
        if record is not None and (record.is_alive() or record.group()):
            end_group(record)
            stopped.append(f"{name} (process {record.pid})")
        shutil.rmtree(folder / name, ignore_errors=True)
    return stopped


def _all_running(folder: Path) -> bool:
    records = [ProcessRecord.load(folder / name / "process.json") for name in SERVER_FACTORIES]
    return (folder / "env").exists() and all(record is not None and record.is_alive() for record in records)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. A second `start` or `stop` waits for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise StartupFailed(f"{folder / 'lock'} cannot be locked: {error}") from error
        yield
