"""Terminal output: tables and progress bars for people, JSON for scripts."""

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
"""Width in characters of a table that is written to a file or a pipe."""
PROGRESS_LINE_INTERVAL = 10.0
"""Seconds between two progress lines when stderr is not a terminal. The first line is printed after one
interval."""


def print_json(value: Any) -> None:
    """Print one JSON document on one line of stdout."""
    click.echo(json.dumps(to_json_value(value), ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout. A column is aligned to the right if its first cell is an integer.

    Cells are printed literally: rich markup and emoji codes have no effect.
    """
    table, lines = Table(title=title, title_justify="left"), [list(row) for row in rows]
    for number, column in enumerate(columns):
        numeric = bool(lines) and isinstance(lines[0][number], int)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)) for cell in line))
    Console(width=None if Console().is_terminal else WIDTH).print(table)


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Progress]:
    """Show progress on stderr: a bar on a terminal, otherwise a line every `PROGRESS_LINE_INTERVAL` seconds.

    The first task of the returned Progress has this description. A total of None is unknown until the block
    ends.
    """
    is_terminal = sys.stderr.isatty()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_terminal) as bar:
        bar.add_task(description, total=total)
        if is_terminal:
            yield bar
        else:
            with _progress_lines(bar):
                yield bar
        for task in bar.tasks:
            if task.total is None:
                bar.update(task.id, total=task.completed)


def progress_callback(bar: Progress) -> Callable[[str, int, int], None]:
    """Return `progress(step, done, total)` that shows the steps within one unit of the bar's first task on a
    second line.
    """
    task = bar.add_task("", total=None, visible=False)
    return lambda step, done, total: bar.update(task, description=step, completed=done, total=total, visible=True)


@contextmanager
def _progress_lines(bar: Progress) -> Iterator[None]:
    """Print progress lines from a thread, because the main thread may spend minutes in one call."""
    ended, stderr = threading.Event(), sys.stderr

    def print_lines() -> None:
        while not ended.wait(PROGRESS_LINE_INTERVAL):
            with suppress(OSError, ValueError):  # stderr was closed: the command continues
                print(_format_progress(bar.tasks), file=stderr, flush=True)

    printer = threading.Thread(target=print_lines, name="progress", daemon=True)
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()


def _format_progress(tasks: Sequence[Task]) -> str:
    counts = (
        f"{task.description}: {task.completed:,.0f}" + (f" of {task.total:,.0f}" if task.total else "") for task in tasks if task.visible
    )
    return f"{', '.join(counts)} (after {tasks[0].elapsed or 0:.0f} s)"
