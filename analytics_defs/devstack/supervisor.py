"""A group of programs: started in order, monitored, and stopped in reverse order with all their children."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

import click

from analytics_defs.devstack.processes import ProcessRecord, end_group, last_lines, spawn
from analytics_defs.errors import StartupFailed

GRACE = timedelta(seconds=20)
_POLL_SECONDS = 0.1
_KEPT_NAMES = ("lock", "logs")


class StopRequested(Exception):
    """SIGINT, SIGTERM or SIGHUP was received. Raised only while the supervisor waits, never within a step."""


class Supervisor:
    """The programs of one folder. Each is recorded there, so that the next start stops what a SIGKILL left running.

    Waiting for the programs themselves is not sufficient: `dagster dev` ends before its children.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs: dict[str, ProcessRecord] = {}
        self._kinds: dict[str, str] = {}
        self._stop_requested = False

    @property
    def temporary(self) -> Path:
        """Folder for temporary files of the programs. It is outside `folder`, because a socket path has at most 107
        characters.
        """
        return (self.folder / "tmp").readlink()

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], *, kind: str = "") -> None:
        """Start a program. Of several programs of one `kind`, all but the last may end by themselves."""
        record = spawn(command, log=self.log(name), environment={**environment, "TMPDIR": str(self.temporary)})
        record.save(self.folder / "processes" / name)
        self._programs[name], self._kinds[name] = record, kind or name

    def run(self, command: Sequence[str], environment: Mapping[str, str], *, limit: timedelta) -> None:
        """Run a command to its end, with its output on the console.

        Raise StopRequested on a signal, and StartupFailed if the command fails.
        """
        process = subprocess.Popen(command, env=os.environ | environment, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            self.wait_until(lambda: process.poll() is not None, what=shlex.join(command), limit=limit)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise StartupFailed(f"`{shlex.join(command)}` failed with status {process.returncode}")

    def wait_until(self, condition: Callable[[], bool], *, what: str, limit: timedelta) -> None:
        """Wait until `condition` holds.

        Raise StopRequested on a signal, and StartupFailed if a program ends or the limit is exceeded.
        """
        deadline = time.monotonic() + limit.total_seconds()
        while not condition():
            if time.monotonic() > deadline:
                raise StartupFailed(f"{what} took longer than {limit.total_seconds():.0f} s; the logs are in {self.folder / 'logs'}")
            self._check()
            time.sleep(_POLL_SECONDS)

    def watch(self) -> None:
        """Monitor the programs. Raise StopRequested on a signal, and StartupFailed if a program ends."""
        while True:
            self._check()
            time.sleep(_POLL_SECONDS)

    def request_stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Handle a signal. Idempotent."""
        self._stop_requested = True

    def _check(self) -> None:
        if self._stop_requested:
            raise StopRequested
        ended = [name for name, record in self._programs.items() if not record.is_alive()]
        for name in ended:
            if all(other in ended for other, kind in self._kinds.items() if kind == self._kinds[name]):
                raise StartupFailed(f"{name} ended by itself. The end of {self.log(name)}:\n{last_lines(self.log(name))}")
            click.echo(f"{name} ended by itself; the other programs of its kind continue. Its log is {self.log(name)}")
            del self._programs[name], self._kinds[name]


@contextmanager
def supervised(folder: Path) -> Iterator[Supervisor]:
    """Open an empty stack in `folder`, which can have one at a time.

    When the block ends, its programs are stopped and all files except the logs are deleted. Handles SIGINT, SIGTERM
    and SIGHUP within the block, even if they were ignored before. Main thread only.
    """
    with _owned(folder):
        if (folder / "processes").exists():
            click.echo("stopping programs of an earlier run that was killed")
        _clean_up(folder)
        shutil.rmtree(folder / "logs", ignore_errors=True)
        for name in ("logs", "processes"):
            (folder / name).mkdir()
        (folder / "tmp").symlink_to(tempfile.mkdtemp(prefix="analytics-dev-"))
        stack = Supervisor(folder)
        before = {number: signal.signal(number, stack.request_stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield stack
        finally:
            _clean_up(folder)
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. The operating system releases it when the process ends for any reason."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StartupFailed(
                f"a stack is already running in {folder}, as process {lock.read()}; its settings are in {folder / 'env'}"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _clean_up(folder: Path) -> None:
    """Stop the programs recorded in `folder`, last started first, and delete everything there except lock and logs."""
    records = folder / "processes"
    for path in sorted(records.glob("*"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        record = ProcessRecord.load(path)
        if record is not None:
            end_group(record, first=signal.SIGINT, grace=GRACE)
    if (folder / "tmp").is_symlink():
        shutil.rmtree((folder / "tmp").readlink(), ignore_errors=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in _KEPT_NAMES:
            shutil.rmtree(path)
        elif path.name not in _KEPT_NAMES:
            path.unlink()
