"""Event listener of supervisor. Signals the first process of the container if a program cannot be kept running."""

import os
import signal
import sys

from supervisor import childutils


def main() -> None:
    while True:
        _, payload = childutils.listener.wait()
        program = childutils.get_headers(payload)["processname"]
        sys.stderr.write(f"supervisor stopped restarting {program}. Its last log lines above show the reason.\n")
        sys.stderr.flush()
        os.kill(int(os.environ["CONTAINER_PID"]), signal.SIGUSR1)
        childutils.listener.ok()


if __name__ == "__main__":
    main()
