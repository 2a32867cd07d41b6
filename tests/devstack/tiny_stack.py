"""A stack like `make dev` with two tiny programs: `python tiny_stack.py FOLDER`.

Each program creates a temporary file. Each has a child that ignores SIGINT and outlives it, like Dagster's code server.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from analytics_defs.devstack import supervisor

PROGRAM = ("/bin/sh", "-c", 'echo x > "$TMPDIR/leftover-$$"; sleep 600 & echo up; wait')


def main(folder: Path) -> None:
    supervisor.GRACE = timedelta(seconds=0.5)
    with supervisor.supervised(folder) as stack:
        try:
            for name in ("first", "second"):
                stack.start(name, PROGRAM, {})
            up = lambda: all(stack.log(name).read_text() == "up\n" for name in ("first", "second"))  # noqa: E731
            stack.wait_until(up, what="starting", limit=timedelta(seconds=20))
            (folder / "env").write_text(f"TEMPORARY={stack.temporary}\n")
            stack.watch()
        except supervisor.StopRequested:
            sys.stdout.write("stopped\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
