"""Child processes in their own session and group. They are recorded in files and stopped by id, never by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import psutil

POLL_SECONDS = 0.05
_SAME_START_SECONDS = 2.0
_STAT = "/proc/{}/stat"
_HAS_STAT = Path(_STAT.format("self")).exists()
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RESET = (signal.SIGHUP, signal.SIGQUIT, *END_SIGNALS)


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process id with the start time of its process, so that a reused id is recognized."""

    pid: int
    started: float
    """Seconds since boot on Linux, so that suspending the machine or setting its clock has no effect. Otherwise epoch
    seconds."""

    @classmethod
    def of(cls, pid: int) -> ProcessRecord:
        """Return the record of a running process. Raise ProcessLookupError if it does not exist."""
        try:
            return cls(pid, _start_of(pid))
        except psutil.NoSuchProcess as error:
            raise ProcessLookupError(f"no process {pid}") from error

    @classmethod
    def load(cls, path: Path) -> ProcessRecord | None:
        """Return the saved record, or None if it is missing or incomplete."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls(int(fields["pid"]), float(fields["started"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def is_alive(self) -> bool:
        """Return whether this process still runs. A zombie does not count and is reaped if it is a child."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return self._is_recorded(self.pid, exact=True)

    def group(self) -> list[int]:
        """Return the running processes of the group that this process leads or led.

        Empty if the id was reused and now leads another group.
        """
        if psutil.pid_exists(self.pid) and not self._is_recorded(self.pid, exact=True, zombies=True):
            return []
        return [pid for pid in psutil.pids() if _group_of(pid) == self.pid and self._is_recorded(pid, exact=False)]

    def _is_recorded(self, pid: int, *, exact: bool, zombies: bool = False) -> bool:
        """Return whether the start time of `pid` matches: equal if `exact`, otherwise equal or later, as for
        group members.
        """
        try:
            delay = _start_of(pid) - self.started
            return -_SAME_START_SECONDS < delay < (_SAME_START_SECONDS if exact else float("inf")) and (
                zombies or psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False


def _start_of(pid: int) -> float:
    """Return the start time of a process. Raise psutil.NoSuchProcess if it does not exist."""
    if not _HAS_STAT:
        return psutil.Process(pid).create_time()
    try:
        fields = Path(_STAT.format(pid)).read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")  # starttime, field 22 in proc(5)


def spawn(command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> ProcessRecord:
    """Start a process that outlives this one: own session and group, no input, output appended to `log`.

    `command[0]` is a path. The process inherits this environment, updated with `environment`. Signal handlers are
    reset: a background job of a non-interactive shell ignores SIGINT and would pass that on.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    merged = os.environ | environment
    pid = os.posix_spawn(command[0], list(command), merged, file_actions=files, setsid=True, setsigdef=_RESET, setsigmask=())
    return ProcessRecord.of(pid)


def end_group(record: ProcessRecord, *, first: signal.Signals = signal.SIGTERM, grace: timedelta = timedelta(seconds=20)) -> None:
    """Send `first` to the whole group, and SIGKILL to the processes that still run after `grace`. Wait for their end."""
    signal_group(record, first)
    if not _await_end(record, grace):
        signal_group(record, signal.SIGKILL)
        _await_end(record, grace)


def signal_group(record: ProcessRecord, number: signal.Signals) -> None:
    for pid in record.group():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def last_lines(log: Path, count: int = 15) -> str:
    """Return the last lines of a log, for an error message about a process that ended."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


def _await_end(record: ProcessRecord, grace: timedelta) -> bool:
    deadline = time.monotonic() + grace.total_seconds()
    while record.is_alive() or record.group():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None
