"""A temporary Postgres server on a loopback port, without a container."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

from analytics_defs.devstack.tcp_ports import LOOPBACK, free_port
from tests.devstack.waiting import until


@dataclass(slots=True)
class Postgres:
    """A Postgres server that can be stopped and restarted with the same data."""

    address: URL
    programs: Path
    """The folder of `pg_isready`."""
    launch: Callable[[], subprocess.Popen[bytes]]
    _server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it accepts connections. Port and data stay the same after a restart."""
        server = self._server = self.launch()
        until(lambda: self._is_ready() or server.poll() is not None)

    def _is_ready(self) -> bool:
        """Return False also during crash recovery, when the server accepts connections and rejects each one."""
        try:
            create_engine(self.address.set(database="postgres"), poolclass=NullPool).connect().close()
        except OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop the server. Connections of clients are closed."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)  # fast shutdown
            self._server.wait(30)

    @property
    def port(self) -> int:
        assert self.address.port
        return self.address.port

    def column(self, query: str) -> list[object]:
        """Return the first column of the result."""
        with create_engine(self.address, poolclass=NullPool).connect() as connection:
            return list(connection.execute(text(query)).scalars())

    def execute(self, statement: str) -> None:
        with create_engine(self.address, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(statement))

    def create_database(self, name: str) -> None:
        server = create_engine(self.address.set(database="postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))


@contextmanager
def postgres(user: str, password: str, database: str) -> Iterator[Postgres]:
    """Start a server with one user and one empty database, without fsync. Fail the test if Postgres is not installed."""
    programs = _programs()
    owner = _owner()
    with tempfile.TemporaryDirectory(prefix="analytics-postgres-") as folder:
        shutil.chown(folder, owner)
        secret = Path(folder, "password")
        secret.write_text(password, encoding="utf-8")
        shutil.chown(secret, owner)
        data, port = Path(folder, "data"), free_port()
        initdb = [
            str(programs / "initdb"),
            "-D",
            str(data),
            "-U",
            user,
            "--pwfile",
            str(secret),
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(initdb, check=True, capture_output=True, user=owner, cwd=folder)
        options = [f"-cport={port}", f"-clisten_addresses={LOOPBACK}", f"-cunix_socket_directories={folder}", "-cfsync=off"]
        command: list[str | Path] = [programs / "postgres", "-D", data, *options]

        def launch() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, stderr=subprocess.DEVNULL, user=owner, cwd=folder)

        server = Postgres(URL.create("postgresql+psycopg2", user, password, LOOPBACK, port, database), programs, launch)
        try:
            server.start()
            server.create_database(database)
            yield server
        finally:
            server.stop()


def _programs() -> Path:
    folders = [Path(path).parent for name in ("postgres", "initdb") if (path := shutil.which(name))]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.fail("PostgreSQL's initdb and postgres were not found (Debian and Ubuntu: apt install postgresql)", pytrace=False)


def _owner() -> str:
    """Return the user that runs the server. Postgres refuses to run as root, and its package creates a user."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
