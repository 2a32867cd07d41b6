"""Programs as a container would run them: with exactly the environment given, in a session of their own, their status kept."""

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
    """What an image has beside its own ENV: a home, a place for temporary files, a PATH with these tests' environment for /opt/venv."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    path = os.pathsep.join([*map(str, more), str(VENV), "/usr/local/bin", "/usr/bin", "/bin"])
    return {"PATH": path, "HOME": str(folder), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}


class Program:
    """Started at once. `status` is None while it runs, negative for a signal."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        found = shutil.which(command[0], path=environment["PATH"])
        assert found, f"{command[0]} is not on the PATH that the image would have"
        self.command = " ".join(command)
        self.log = log
        self.status: int | None = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        files = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        # posix_spawn has no working directory; /app is the folder of these files, and tests run there.
        assert Path.cwd() == ROOT
        self.pid = os.posix_spawn(
            found, [found, *command[1:]], environment, file_actions=files, setsid=True, setsigdef=_DEFAULT_SIGNALS, setsigmask=()
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
        """Waits for its end; answers its status."""
        until(lambda: not self.running, seconds=seconds)
        assert self.status is not None
        return self.status

    def tell(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    def session(self) -> list[psutil.Process]:
        """What runs of it: itself, its children, and theirs, whatever groups they made."""
        return [process for process in psutil.process_iter() if _session(process.pid) == self.pid and _lives(process)]

    def kill(self) -> None:
        """Whatever is left of it."""
        for process in self.session():
            process.kill()
        if self.running:
            self.end(10)


def succeeds(command: Sequence[str], environment: Mapping[str, str], log: Path, *, seconds: float) -> None:
    """Repeats a command, as a health check is repeated, until it ends with 0."""
    deadline = time.monotonic() + seconds
    while Program(command, environment, log).end(seconds) != 0:
        assert time.monotonic() < deadline, f"`{' '.join(command)}` did not succeed within {seconds} s:\n{log.read_text()[-2000:]}"


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
