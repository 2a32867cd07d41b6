"""`make bench`: speed, latency and memory on real servers, compared with the limits of the stores.

`python -m bench --help` lists the options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import click

from analytics_defs.cli.output import progress_bar
from bench import pictures, report
from bench.ceilings import ceilings
from bench.client_time import client_time
from bench.drain import EventJson, drain, drain_large
from bench.lanes import scaling
from bench.latency import Load, latency, launchers
from bench.report import Results
from bench.world import new_world, servers

FOLDER = Path(".bench").absolute()
LANES = {1: tuple(EventJson), 2: tuple(EventJson), 3: (EventJson.BY_TAR, EventJson.OFF)}
"""Drains by number of lanes. Three lanes with single PUTs take longest and show nothing new, so they are left out."""
PROFILED = (EventJson.BY_TAR, EventJson.OFF)
RATE = 50.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Number of events of each benchmark."""

    drained: int = 100_000
    """Also the number of requests of each raw ceiling."""
    scale: tuple[int, ...] = (10_000, 1_000_000)
    large: int = 400
    latency: int = 9_000
    """Three minutes at `RATE`, so that the pauses between one run and the next are included."""
    lanes: int = 12_000
    profiled: int = 50_000


QUICK = Sizes(drained=6_000, scale=(3_000,), large=40, latency=500, lanes=2_000, profiled=3_000)


Measurements = Iterator[Callable[[], None]]
"""Functions that each add one measurement to the results."""


def _drains(results: Results, sizes: Sizes) -> Measurements:
    for lanes, modes in LANES.items():
        for event_json in modes:
            yield partial(_drain, results, sizes.drained, lanes, event_json)
        if lanes == 1:  # between the drains, so that a change in the speed of the machine affects both
            yield partial(_ceilings, results, sizes.drained)


def _scale(results: Results, sizes: Sizes) -> Measurements:
    for size in sizes.scale:
        yield partial(_drain, results, size, 1, EventJson.OFF)


def _latencies(results: Results, sizes: Sizes) -> Measurements:
    for launcher in launchers():
        yield partial(_latency, results, launcher, sizes.latency)


def _profiles(results: Results, sizes: Sizes) -> Measurements:
    for event_json in PROFILED:
        yield partial(_profile, results, sizes.profiled, event_json)


BENCHMARKS: Mapping[str, Callable[[Results, Sizes], Measurements]] = {
    "drains": _drains,
    "lanes": lambda results, sizes: iter([partial(_lanes, results, sizes.lanes)]),
    "latency": _latencies,
    "profile": _profiles,
    "memory": lambda results, sizes: iter([partial(_memory, results, sizes.large)]),
    "scale": _scale,
}


@click.command()
@click.option("--quick", is_flag=True, help="Use small sizes, about five minutes. For a test of the benchmarks; the results mean little.")
@click.option(
    "--only",
    type=click.Choice(list(BENCHMARKS)),
    multiple=True,
    default=list(BENCHMARKS),
    show_default=True,
    help="Run only this benchmark. Can be repeated.",
)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Also write the tables to this Markdown file.")
@click.option("--pictures", "folder", type=click.Path(file_okay=False, path_type=Path), help="Also write SVG charts to this folder.")
def main(quick: bool, only: tuple[str, ...], save: Path | None, folder: Path | None) -> None:
    """Start real servers with empty data, run the benchmarks, print the tables, and stop the servers.

    Takes about half an hour. The results are kept in .bench/results.json. `python -m bench.pictures` draws them again.
    """
    sizes, results = QUICK if quick else Sizes(), Results()
    with servers(FOLDER / "servers"):
        for measure in chain.from_iterable(benchmark(results, sizes) for name, benchmark in BENCHMARKS.items() if name in only):
            measure()
            # Save after each one, so that an interrupt keeps the earlier results.
            pictures.save(results, FOLDER / "results.json")
            if save:
                save.write_text(report.markdown(results), encoding="utf-8")
    if folder:
        pictures.draw(results, folder)
    click.echo(report.markdown(results))


def _lanes(results: Results, events: int) -> None:
    with _bar("null stores: one lane, then two", 2 * events) as advance:
        results.scaling = scaling(FOLDER / "stack", events, advance)


def _profile(results: Results, events: int, event_json: EventJson) -> None:
    with _bar(f"client time: {event_json.value}", 1) as advance:
        world = new_world(lanes="1", **event_json.settings)
        results.client.append(client_time(world, event_json.value, events))
        advance(1)


def _latency(results: Results, launcher: str, events: int) -> None:
    with _bar(f"latency at {RATE:g} events/s: {launcher}", events) as advance:
        results.latencies.append(latency(FOLDER / "stack", launcher, Load(RATE, events), advance))


def _memory(results: Results, records: int) -> None:
    with _bar("memory: records of 900 KB", records) as advance:
        results.large_records_mib = drain_large(FOLDER / "stack", records, on_progress=advance)


def _ceilings(results: Results, events: int) -> None:
    with _bar("raw ceilings", 5) as advance:
        results.ceilings = ceilings(events, advance)


def _drain(results: Results, events: int, lanes: int, event_json: EventJson) -> None:
    name = f"drain: {lanes} lane{'s' if lanes > 1 else ''}, {event_json.value}"
    with _bar(name, events) as advance:
        results.drained.append(drain(FOLDER / "stack", events, lanes=lanes, event_json=event_json, on_progress=advance))


@contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    with progress_bar(description, total) as bar:
        yield lambda done: bar.update(bar.task_ids[0], completed=done)


if __name__ == "__main__":
    main()
