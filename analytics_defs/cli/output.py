"""How values are shown: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from analytics_defs.core.json_values import to_json_value

WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""
PROGRESS_LINE_INTERVAL = 10.0
"""Seconds between two lines of progress, where stderr is no terminal; the first comes after so many."""


def as_json(value: Any) -> None:
    click.echo(json.dumps(to_json_value(value), ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """On stdout; columns whose first cell is a number are aligned to the right. Cells are shown as they are: no markup, no emoji."""
    drawn, lines = Table(title=title, title_justify="left"), [list(row) for row in rows]
    for number, column in enumerate(columns):
        numeric = bool(lines) and isinstance(lines[0][number], int)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        drawn.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)) for cell in line))
    Console(width=None if Console().is_terminal else WIDTH).print(drawn)


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Progress]:
    """On stderr: a bar where that is a terminal, elsewhere a line every `PROGRESS_LINE_INTERVAL` seconds. Its first task is `what`.

    None: the total is known at the end.
    """
    is_terminal = sys.stderr.isatty()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_terminal) as bar:
        bar.add_task(what, total=total)
        if is_terminal:
            yield bar
        else:
            with _said(bar):
                yield bar
        for task in bar.tasks:
            if task.total is None:
                bar.update(task.id, total=task.completed)


def progress_callback(bar: Progress) -> Callable[[str, int, int], None]:
    """For the parts of one unit of the bar's first task: what is done, how many, of how many. They are a line of their own."""
    task = bar.add_task("", total=None, visible=False)
    return lambda what, done, of: bar.update(task, description=what, completed=done, total=of, visible=True)


@contextmanager
def _said(bar: Progress) -> Iterator[None]:
    """A thread says it: within one long step nobody else would."""
    ended, stderr = threading.Event(), sys.stderr

    def say() -> None:
        while not ended.wait(PROGRESS_LINE_INTERVAL):
            with suppress(OSError, ValueError):  # who read it went away: the work goes on
                print(_in_words(bar.tasks), file=stderr, flush=True)

    speaker = threading.Thread(target=say, name="progress", daemon=True)
    speaker.start()
    try:
        yield
    finally:
        ended.set()
        speaker.join()


def _in_words(tasks: Sequence[Task]) -> str:
    counts = (
        f"{each.description}: {each.completed:,.0f}" + (f" of {each.total:,.0f}" if each.total else "") for each in tasks if each.visible
    )
    return f"{', '.join(counts)} (after {tasks[0].elapsed or 0:.0f} s)"
