"""How values are shown: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from analytics_defs.core.plain import plain

WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def as_json(value: Any) -> None:
    click.echo(json.dumps(plain(value), ensure_ascii=False))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """On stdout; columns whose first cell is a number are aligned to the right. Cells are shown as they are: no markup, no emoji."""
    drawn, lines = Table(title=title, title_justify="left"), [list(row) for row in rows]
    for number, column in enumerate(columns):
        numeric = bool(lines) and isinstance(lines[0][number], int)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        drawn.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)) for cell in line))
    Console(width=None if Console().is_terminal else WIDTH).print(drawn)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal; nothing elsewhere. Its first task is `what`. None: the total is known at the end."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        bar.add_task(what, total=total)
        yield bar
        for task in bar.tasks:
            if task.total is None:
                bar.update(task.id, total=task.completed)
