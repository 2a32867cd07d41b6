"""The first process of the one container: prepares Dagster's instance and the stores, then runs supervisor until it is told to stop.

The health endpoint answers from the first moment, and says what is not there yet.
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
SERVE = ("analytics", "serve")
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
        self.statuses: dict[int, int | None] = {}
        """Of the programs that were started and not waited for: how each ended; None while it runs."""
        for number in AWAITED:  # process 1 gets no signal that it has no handler for
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)

    def main(self) -> int:
        home = Path(os.environ["DAGSTER_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        production = (HERE / "dagster.yaml").read_text(encoding="utf-8")
        (home / "dagster.yaml").write_text(instance_file(production, os.environ), encoding="utf-8")
        os.environ["CONTAINER_PID"] = str(os.getpid())
        status = self.prepare() or self.run(SUPERVISOR) or 1
        if self.stopping:
            return 0
        return status if status > 0 else 1

    def prepare(self) -> int:
        """Beside it an endpoint of its own answers, until supervisor's takes its place a second or two later.

        It knows nothing of Dagster: to look at an instance whose storage is being created would be to create it, too.
        """
        endpoint = self.start(SERVE, {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"})
        status = self.set_up() or self.run(CREATE_STORAGE)
        if self.statuses[endpoint] is None:
            os.kill(endpoint, signal.SIGTERM)
        self.wait(endpoint)
        return status

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
        return self.wait(self.start(command, os.environ))

    def start(self, command: tuple[str, ...], environment: Mapping[str, str]) -> int:
        child = os.posix_spawnp(command[0], command, environment, setsigmask=())
        self.statuses[child] = None
        return child

    def wait(self, child: int) -> int:
        while self.statuses[child] is None:
            number = signal.sigwait(AWAITED)
            if number == signal.SIGCHLD:
                self.statuses |= {pid: status for pid, status in _reaped() if pid in self.statuses}
            else:
                self.stopping = self.stopping or number in STOP
                os.kill(child, signal.SIGTERM)
        return os.waitstatus_to_exitcode(self.statuses.pop(child) or 0)


def _reaped() -> Iterator[tuple[int, int]]:
    """Every process that ended: programs of ours, and orphans, which the first process of a container inherits."""
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
