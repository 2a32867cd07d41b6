"""Supervisor's listener: tells the container's first process that a program could not be kept running."""

import os
import signal
import sys

from supervisor import childutils


def main() -> None:
    while True:
        _, payload = childutils.listener.wait()
        program = childutils.get_headers(payload)["processname"]
        sys.stderr.write(f"gave up: {program}. Its last lines above say why.\n")
        sys.stderr.flush()
        os.kill(int(os.environ["CONTAINER_PID"]), signal.SIGUSR1)
        childutils.listener.ok()


if __name__ == "__main__":
    main()
