"""How values are shown: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.timestamps import iso_milliseconds

WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def plain(value: Any) -> Any:  # noqa: PLR0911 - one answer for each kind of value
    """A value of ours as JSON has it: coordinates as text, dataclasses as objects."""
    match value:
        case Source() | TopicPartition() | Range():
            return str(value)
        case Enum():
            return value.value
        case datetime():
            return iso_milliseconds(value)
        case Mapping():
            return {str(plain(key)): plain(each) for key, each in value.items()}
        case tuple() | list() | set() | frozenset():
            return [plain(each) for each in value]
        case _ if is_dataclass(value):
            return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
        case _:
            return value


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
