"""Creation of `.venv` for the Makefile, with progress. Standard library only: it runs before anything is installed.

    python analytics_defs/devstack/venv.py run    what `make dev` needs
    python analytics_defs/devstack/venv.py dev    everything: tests, linters, Celery, Kubernetes, production

A complete environment has a file with the name of its kind. An environment without one was interrupted and is created again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

VENV = Path(".venv")
EXTRAS = {"run": "stack", "dev": "dev,celery,kubernetes,production"}
CONSTRAINTS = "constraints.txt"
LAST_LINES = 5
"""Lines of the installer's output that an error message shows."""
REPORT_SECONDS = 5.0
"""Time between two lines of progress if the output is not a terminal."""
_COLLECTED = re.compile(r"(?:Collecting|Requirement already satisfied:|Obtaining) ")
_INSTALLING = re.compile(r"Installing collected packages: (.+)")
_ADVICE = (
    (re.compile(r"No space left on device", re.IGNORECASE), "The disk is full. Free about 1.5 GB."),
    (
        re.compile(
            r"NewConnectionError|NameResolutionError|ConnectTimeout|Could not connect|dns error|Network is unreachable|from versions: none"
        ),
        "The package index is not reachable. Check the network or the proxy.",
    ),
)


class Progress:
    """One line of progress: rewritten on a terminal, otherwise printed every `REPORT_SECONDS`."""

    def __init__(self, write: Callable[[str], object] = sys.stderr.write, is_terminal: bool | None = None) -> None:
        self._write = write
        self._is_terminal = sys.stderr.isatty() if is_terminal is None else is_terminal
        self._printed_at = -REPORT_SECONDS

    def show(self, text: str) -> None:
        now = time.monotonic()
        if self._is_terminal:
            self._write(f"\r\033[K{text}")
        elif now - self._printed_at >= REPORT_SECONDS:
            self._write(f"{text}\n")
            self._printed_at = now

    def end(self, text: str) -> None:
        """Print the last line of a step."""
        self._write(f"\r\033[K{text}\n" if self._is_terminal else f"{text}\n")


class PipOutput:
    """Progress read from pip's output, and from the folder into which pip installs."""

    def __init__(self, site_packages: Path) -> None:
        self._site_packages = site_packages
        self._found_before = self._installed()
        self.resolved = 0
        self.total = 0
        """Packages to install. 0 until pip has resolved all of them."""

    def feed(self, line: str) -> None:
        self.resolved += bool(_COLLECTED.match(line))
        if match := _INSTALLING.match(line):
            self.total = len(match[1].split(", "))

    def describe(self) -> str:
        if not self.total:
            return f"resolving and downloading packages: {self.resolved} found"
        return f"installing packages: {min(self.total, self._installed() - self._found_before)} of {self.total}"

    def _installed(self) -> int:
        return sum(1 for _ in self._site_packages.glob("*.dist-info"))


def create(kind: str, progress: Progress) -> None:
    """Create `.venv`, or add what is missing. Exit with a message if the installer fails."""
    markers = [VENV / name for name in EXTRAS]
    if VENV.exists() and not any(marker.exists() for marker in markers):
        progress.end("removing .venv: an earlier installation did not finish")
        shutil.rmtree(VENV)
    started, uv = time.monotonic(), shutil.which("uv")
    for marker in markers:
        marker.unlink(missing_ok=True)
    if not VENV.exists():
        progress.show("creating .venv")
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(VENV)] if uv else [sys.executable, "-m", "venv", str(VENV)])
    target = ["--constraint", CONSTRAINTS, "--editable", f".[{EXTRAS[kind]}]"]
    if uv:
        _run([uv, "pip", "install", "--python", str(VENV / "bin" / "python"), *target], capture=False)
    else:
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", *target]
        _run_pip(pip, progress)
    for marker in markers if kind == "dev" else markers[:1]:
        marker.touch()
    progress.end(f"installed in .venv in {time.monotonic() - started:.0f} s")


def _run_pip(command: list[str], progress: Progress) -> None:
    [site_packages] = VENV.glob("lib/python*/site-packages")
    output, last = PipOutput(site_packages), deque[str](maxlen=200)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in _lines(process, lambda: progress.show(output.describe())):
                last.append(line)
                output.feed(line.strip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SystemExit(failure_message(last))


def _lines(process: subprocess.Popen[str], on_wait: Callable[[], None]) -> Iterable[str]:
    """Yield the lines of the process. Calls `on_wait` at least every half second."""
    import queue
    import threading

    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        on_wait()
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            continue
        if line is None:
            return
        yield line


def _run(command: list[str], *, capture: bool = True) -> None:
    result = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE if capture else None, stderr=subprocess.STDOUT if capture else None
    )
    if result.returncode:
        raise SystemExit(failure_message((result.stdout or "").splitlines()))


def failure_message(lines: Iterable[str]) -> str:
    """Return what failed, why if that is known, and what to do."""
    texts = [line.rstrip() for line in lines if line.strip()]
    advice = next(
        (text for pattern, text in _ADVICE if any(pattern.search(line) for line in texts)),
        "Correct the cause, then run the same command again.",
    )
    return "\n".join([*texts[-LAST_LINES:], f"error: the packages were not installed. {advice} Nothing outside .venv was changed."])


def _main(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0] not in EXTRAS:
        raise SystemExit(f"usage: venv.py {'|'.join(EXTRAS)}")
    try:
        create(arguments[0], Progress())
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted: the next `make` command starts the installation again") from None


if __name__ == "__main__":
    _main(sys.argv[1:])
