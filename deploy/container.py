"""The first process of the single container: prepares Dagster's instance and the stores, then runs supervisor.

The health endpoint answers from the start and reports what is not available yet. The exit status is 0 after SIGTERM or
SIGINT, the status of a failed step, or 1 if supervisor could not keep a program running.
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
"""Exit code of `analytics` if a broker or store does not answer. It may still be starting."""
SETUP_TIMEOUT_SECONDS = 180.0
RETRY_DELAY = ("sleep", "5")
SERVE = ("analytics", "serve")
CREATE_STORAGE = ("sh", "-c", "exec dagster instance info > /dev/null")
"""Opens the instance, which creates its tables. Three programs that start together must not all create them."""
SUPERVISOR = ("supervisord", "-c", str(HERE / "supervisord.conf"))

STOP = (signal.SIGTERM, signal.SIGINT)
GIVEN_UP = signal.SIGUSR1
AWAITED = {*STOP, GIVEN_UP, signal.SIGCHLD}


def instance_file(production: str, environment: Mapping[str, str]) -> str:
    """Return the production dagster.yaml. Without DAGSTER_POSTGRES_HOST, the storage is SQLite in DAGSTER_HOME."""
    if environment.get("DAGSTER_POSTGRES_HOST"):
        return production
    instance = yaml.safe_load(production)
    del instance["storage"]
    return str(yaml.safe_dump(instance, sort_keys=False))


class Container:
    """Runs programs one after another. Signals are handled only while it waits."""

    def __init__(self) -> None:
        self.stopping = False
        self.statuses: dict[int, int | None] = {}
        """Exit status of each child that was started and not yet waited for. None while it runs."""
        for number in AWAITED:  # the kernel does not deliver a signal without a handler to process 1
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
        """Prepare the stores and Dagster's storage, and return the exit status.

        A temporary health endpoint answers until supervisor starts its own, one to two seconds later. It has no
        DAGSTER_HOME: reading an instance would also create its storage.
        """
        endpoint = self.start(SERVE, {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"})
        status = self.set_up() or self.run(CREATE_STORAGE)
        if self.statuses[endpoint] is None:
            os.kill(endpoint, signal.SIGTERM)
        self.wait(endpoint)
        return status

    def set_up(self) -> int:
        """Run the setup. Retry for up to three minutes while a service does not answer."""
        deadline = time.monotonic() + SETUP_TIMEOUT_SECONDS
        while (status := self.run(SETUP)) == UNAVAILABLE and time.monotonic() < deadline and not self.stopping:
            self.run(RETRY_DELAY)
        return status

    def run(self, command: tuple[str, ...]) -> int:
        """Run a program and return its exit status, negative for a signal.

        A stop signal is passed on as SIGTERM. After a stop signal, nothing is started.
        """
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
    """Yield pid and status of every ended child, including orphans, which process 1 inherits."""
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
