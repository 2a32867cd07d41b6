"""Programs that live and die together: started in order, watched, and ended in reverse order with all their children."""

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
_KEPT = ("lock", "logs")


class StopRequested(Exception):
    """SIGINT, SIGTERM or SIGHUP came. Raised where the stack waits, never in the middle of a step."""


class Supervisor:
    """The programs of one folder. Each leaves its record there, so that whatever a SIGKILL leaves running is ended by the next start.

    A supervisor that waits for the programs themselves is not enough: `dagster dev` ends before its children do.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs: dict[str, ProcessRecord] = {}
        self._kinds: dict[str, str] = {}
        self._stop_requested = False

    @property
    def temporary(self) -> Path:
        """Where the programs' temporary files go. Not in `folder`: a socket's path may have 107 characters at most."""
        return (self.folder / "tmp").readlink()

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], *, kind: str = "") -> None:
        """Of several programs of one `kind`, all but the last may end by themselves."""
        record = spawn(command, log=self.log(name), environment={**environment, "TMPDIR": str(self.temporary)})
        record.save(self.folder / "processes" / name)
        self._programs[name], self._kinds[name] = record, kind or name

    def run(self, command: Sequence[str], environment: Mapping[str, str], *, limit: timedelta) -> None:
        """Runs a command to its end, with its output on the console. Raises StopRequested, or CannotStart where it fails."""
        process = subprocess.Popen(command, env=os.environ | environment, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            self.wait_until(lambda: process.poll() is not None, what=shlex.join(command), limit=limit)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise StartupFailed(f"`{shlex.join(command)}` failed with status {process.returncode}")

    def wait_until(self, condition: Callable[[], bool], *, what: str, limit: timedelta) -> None:
        """Returns when `condition` holds. Raises StopRequested, or CannotStart when a program ended or time is up."""
        deadline = time.monotonic() + limit.total_seconds()
        while not condition():
            if time.monotonic() > deadline:
                raise StartupFailed(f"{what} took longer than {limit.total_seconds():.0f} s; the logs are in {self.folder / 'logs'}")
            self._look()
            time.sleep(_POLL_SECONDS)

    def watch(self) -> None:
        """Never returns. Raises StopRequested, or CannotStart when a program ended."""
        while True:
            self._look()
            time.sleep(_POLL_SECONDS)

    def request_stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """A signal handler. Twice is once."""
        self._stop_requested = True

    def _look(self) -> None:
        if self._stop_requested:
            raise StopRequested
        ended = [name for name, record in self._programs.items() if not record.is_alive()]
        for name in ended:
            if all(other in ended for other, kind in self._kinds.items() if kind == self._kinds[name]):
                raise StartupFailed(f"{name} ended by itself. The end of {self.log(name)}:\n{last_lines(self.log(name))}")
            click.echo(f"{name} ended by itself; the others of its kind go on. Its log is {self.log(name)}")
            del self._programs[name], self._kinds[name]


@contextmanager
def supervised(folder: Path) -> Iterator[Supervisor]:
    """An empty stack in `folder`, the only one there at a time. When the block ends, its programs end, and of its files only logs stay.

    Takes SIGINT, SIGTERM and SIGHUP for the length of the block, also where they were ignored: main thread only.
    """
    with _owned(folder):
        if (folder / "processes").exists():
            click.echo("ending what an earlier run, killed, left behind")
        _sweep(folder)
        shutil.rmtree(folder / "logs", ignore_errors=True)
        for name in ("logs", "processes"):
            (folder / name).mkdir()
        (folder / "tmp").symlink_to(tempfile.mkdtemp(prefix="analytics-dev-"))
        stack = Supervisor(folder)
        before = {number: signal.signal(number, stack.request_stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield stack
        finally:
            _sweep(folder)
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which the system frees when its holder ends in whatever way."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StartupFailed(f"one already runs in {folder}, as process {lock.read()}; its settings are in {folder / 'env'}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _sweep(folder: Path) -> None:
    """Ends what is recorded in `folder`, last started first, and removes everything there but the logs."""
    records = folder / "processes"
    for path in sorted(records.glob("*"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        record = ProcessRecord.load(path)
        if record is not None:
            end_group(record, first=signal.SIGINT, grace=GRACE)
    if (folder / "tmp").is_symlink():
        shutil.rmtree((folder / "tmp").readlink(), ignore_errors=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in _KEPT:
            shutil.rmtree(path)
        elif path.name not in _KEPT:
            path.unlink()
