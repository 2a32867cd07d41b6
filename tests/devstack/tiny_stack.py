"""What `make dev` does, with two tiny programs: `python tiny_stack.py FOLDER`.

Each program leaves a temporary file, and has a child that ignores SIGINT and outlives it, as Dagster's code server does.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from analytics_defs.devstack import supervisor

PROGRAM = ("/bin/sh", "-c", 'echo x > "$TMPDIR/leftover-$$"; sleep 600 & echo up; wait')


def main(folder: Path) -> None:
    supervisor.GRACE = timedelta(seconds=0.5)
    with supervisor.supervised(folder) as opened:
        try:
            for name in ("first", "second"):
                opened.start(name, PROGRAM, {})
            up = lambda: all(opened.log(name).read_text() == "up\n" for name in ("first", "second"))  # noqa: E731
            opened.wait_until(up, what="starting", limit=timedelta(seconds=20))
            (folder / "env").write_text(f"TEMPORARY={opened.temporary}\n")
            opened.watch()
        except supervisor.StopRequested:
            sys.stdout.write("stopped\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
