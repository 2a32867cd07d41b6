"""`make bench`: how fast, beside what the stores give at most, in one run on real servers. `python -m bench --help`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from analytics_defs.cli.shown import progress
from bench import report
from bench.ceilings import ceilings
from bench.drain import EventObjects, drain, drain_large
from bench.latency import Load, latency, launchers
from bench.report import Results
from bench.world import servers

FOLDER = Path(".bench").absolute()
PARTS = ("drains", "scale", "memory", "latency")
RATE = 50.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many events each part takes."""

    drained: int = 100_000
    """And requests of each raw ceiling."""
    scale: tuple[int, ...] = (10_000, 1_000_000)
    large: int = 400
    latency: int = 6_000


QUICK = Sizes(drained=6_000, scale=(3_000,), large=40, latency=1_000)


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes, two minutes: to see that it works. The figures mean little.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, default=PARTS, show_default=True, help="May be repeated.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Also write the tables to this file, as Markdown.")
def main(quick: bool, only: tuple[str, ...], save: Path | None) -> None:
    """Start real servers with empty data, measure, print the tables, and end what was started. About half an hour."""
    sizes, results = QUICK if quick else Sizes(), Results()
    with servers(FOLDER / "servers"):
        for part in _parts(results, sizes, only):
            part()
            if save:  # after each part, so that what was measured stays when somebody stops it
                save.write_text(report.markdown(results), encoding="utf-8")
    click.echo(report.markdown(results))


def _parts(results: Results, sizes: Sizes, only: tuple[str, ...]) -> Iterator[Callable[[], None]]:
    if "drains" in only:
        for lanes in (1, 2):
            for event_objects in EventObjects:
                yield partial(_drain, results, sizes.drained, lanes, event_objects)
            if lanes == 1:  # in the middle: a machine that gets slower or faster meanwhile does so on both sides
                yield partial(_ceilings, results, sizes.drained)
    if "latency" in only:
        for launcher in launchers():
            yield partial(_latency, results, launcher, sizes.latency)
    if "memory" in only:
        yield partial(_memory, results, sizes.large)
    for size in sizes.scale if "scale" in only else ():
        yield partial(_drain, results, size, 1, EventObjects.OFF)


def _latency(results: Results, launcher: str, events: int) -> None:
    with _bar(f"seen, of {RATE:g} events a second: {launcher}", events) as advance:
        results.latencies.append(latency(FOLDER / "stack", launcher, Load(RATE, events), advance))


def _memory(results: Results, records: int) -> None:
    with _bar("drained: records of 900 KB", records) as advance:
        results.large_records_mib = drain_large(FOLDER / "stack", records, on_progress=advance)


def _ceilings(results: Results, events: int) -> None:
    with _bar("raw ceilings", 5) as advance:
        results.ceilings = ceilings(events, advance)


def _drain(results: Results, events: int, lanes: int, event_objects: EventObjects) -> None:
    name = f"drained: {lanes} lane{'s' if lanes > 1 else ''}, {event_objects.value}"
    with _bar(name, events) as advance:
        results.drained.append(drain(FOLDER / "stack", events, lanes=lanes, event_objects=event_objects, on_progress=advance))


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    with progress(what, total) as bar:
        yield lambda done: bar.update(bar.task_ids[0], completed=done)


if __name__ == "__main__":
    main()
