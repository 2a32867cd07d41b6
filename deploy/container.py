"""The first process of the one container: prepares Dagster's instance and the stores, then runs supervisor until it is told to stop.

Ends with 0 when it was stopped by TERM or INT; else with the status of the step that failed, or 1 when supervisor gave a program up.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
SETUP = ("analytics", "setup")
UNAVAILABLE = 3
"""How `analytics` ends when a broker or store does not answer: they may be starting, too."""
SETUP_WITHIN_SECONDS = 180.0
AGAIN = ("sleep", "5")
CREATE_STORAGE = ("sh", "-c", "exec dagster instance info > /dev/null")
"""Opens the instance, which creates its tables: three programs that start together must not all try."""
SUPERVISOR = ("supervisord", "-c", str(HERE / "supervisord.conf"))

STOP = (signal.SIGTERM, signal.SIGINT)
GIVEN_UP = signal.SIGUSR1
AWAITED = {*STOP, GIVEN_UP, signal.SIGCHLD}


def instance_file(production: str, environment: Mapping[str, str]) -> str:
    """The production instance; without a Postgres its storage is Dagster's default, SQLite in DAGSTER_HOME."""
    if environment.get("DAGSTER_POSTGRES_HOST"):
        return production
    instance = yaml.safe_load(production)
    del instance["storage"]
    return str(yaml.safe_dump(instance, sort_keys=False))


class Container:
    """Runs one program after the other. Signals are taken where it waits, and nowhere else."""

    def __init__(self) -> None:
        self.stopping = False
        for number in AWAITED:  # process 1 gets no signal that it has no handler for
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)

    def main(self) -> int:
        home = Path(os.environ["DAGSTER_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        production = (HERE / "dagster.yaml").read_text(encoding="utf-8")
        (home / "dagster.yaml").write_text(instance_file(production, os.environ), encoding="utf-8")
        os.environ["CONTAINER_PID"] = str(os.getpid())
        status = self.set_up() or self.run(CREATE_STORAGE) or self.run(SUPERVISOR) or 1
        if self.stopping:
            return 0
        return status if status > 0 else 1

    def set_up(self) -> int:
        """Tries again while something does not answer, for three minutes at most."""
        deadline = time.monotonic() + SETUP_WITHIN_SECONDS
        while (status := self.run(SETUP)) == UNAVAILABLE and time.monotonic() < deadline and not self.stopping:
            self.run(AGAIN)
        return status

    def run(self, command: tuple[str, ...]) -> int:
        """The program's exit status, negative for a signal. A signal to stop becomes a TERM for it; once stopped, nothing is started."""
        if self.stopping:
            return 0
        child = os.posix_spawnp(command[0], command, os.environ, setsigmask=())
        while True:
            number = signal.sigwait(AWAITED)
            if number == signal.SIGCHLD:
                ended = dict(_reaped())
                if child in ended:
                    return os.waitstatus_to_exitcode(ended[child])
            else:
                self.stopping = self.stopping or number in STOP
                os.kill(child, signal.SIGTERM)


def _reaped() -> Iterator[tuple[int, int]]:
    """Every process that ended: the program itself, and orphans, which the first process of a container inherits."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, status


if __name__ == "__main__":
    sys.exit(Container().main())
