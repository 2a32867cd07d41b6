"""Programs started as in a container: with exactly the given environment, in a separate session, with their exit status."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.deploy.files import ROOT, VENV
from tests.devstack.waiting import until

_DEFAULT_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def surroundings(folder: Path, *more: Path) -> dict[str, str]:
    """Return the environment of a container besides ENV: home, temporary folder, and a PATH with the tests' environment as /opt/venv."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    path = os.pathsep.join([*map(str, more), str(VENV), "/usr/local/bin", "/usr/bin", "/bin"])
    return {"PATH": path, "HOME": str(folder), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}


class Program:
    """A program that is started on construction. `status` is None while it runs, negative after a signal."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        executable = shutil.which(command[0], path=environment["PATH"])
        assert executable, f"{command[0]} is not on the PATH of the image"
        self.command = " ".join(command)
        self.log = log
        self.status: int | None = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        files = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        # posix_spawn cannot set a working directory. In the image it is /app; here it must be the repository.
        assert Path.cwd() == ROOT
        self.pid = os.posix_spawn(
            executable, [executable, *command[1:]], environment, file_actions=files, setsid=True, setsigdef=_DEFAULT_SIGNALS, setsigmask=()
        )

    @property
    def running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is None

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def end(self, seconds: float) -> int:
        """Wait until the program ends, and return its exit status."""
        until(lambda: not self.running, seconds=seconds)
        assert self.status is not None
        return self.status

    def send_signal(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    def session(self) -> list[psutil.Process]:
        """Return the running processes of the session: the program and all descendants, in any process group."""
        return [process for process in psutil.process_iter() if _session(process.pid) == self.pid and _is_running(process)]

    def kill(self) -> None:
        """Kill all processes of the session."""
        for process in self.session():
            process.kill()
        if self.running:
            self.end(10)


def await_success(command: Sequence[str], environment: Mapping[str, str], log: Path, *, seconds: float) -> None:
    """Repeat the command, as Docker repeats a health check, until its exit status is 0."""
    deadline = time.monotonic() + seconds
    while Program(command, environment, log).end(seconds) != 0:
        assert time.monotonic() < deadline, f"`{' '.join(command)}` did not succeed within {seconds} s:\n{log.read_text()[-2000:]}"


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
