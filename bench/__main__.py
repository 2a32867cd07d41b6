"""`make bench`: how fast, beside what the stores give at most, in one run on real servers. `python -m bench --help`."""

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
from bench.drain import EventObjects, drain, drain_large
from bench.lanes import scaling
from bench.latency import Load, latency, launchers
from bench.report import Results
from bench.world import new_world, servers

FOLDER = Path(".bench").absolute()
LANES = {1: tuple(EventObjects), 2: tuple(EventObjects), 3: (EventObjects.BY_TAR, EventObjects.OFF)}
"""What is drained by how many lanes. Three lanes wait longest for single PUTs, and nothing new is learned."""
PROFILED = (EventObjects.BY_TAR, EventObjects.OFF)
RATE = 50.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many events each part takes."""

    drained: int = 100_000
    """And requests of each raw ceiling."""
    scale: tuple[int, ...] = (10_000, 1_000_000)
    large: int = 400
    latency: int = 9_000
    """Three minutes, so that the pauses between a run that follows its lane and the next one are in it."""
    lanes: int = 12_000
    profiled: int = 50_000


QUICK = Sizes(drained=6_000, scale=(3_000,), large=40, latency=500, lanes=2_000, profiled=3_000)


Measures = Iterator[Callable[[], None]]
"""Each adds to the results."""


def _drains(results: Results, sizes: Sizes) -> Measures:
    for lanes, kinds in LANES.items():
        for write_event_json in kinds:
            yield partial(_drain, results, sizes.drained, lanes, write_event_json)
        if lanes == 1:  # between the drains: a machine that gets slower or faster meanwhile does so on both sides
            yield partial(_ceilings, results, sizes.drained)


def _scale(results: Results, sizes: Sizes) -> Measures:
    for size in sizes.scale:
        yield partial(_drain, results, size, 1, EventObjects.OFF)


def _latencies(results: Results, sizes: Sizes) -> Measures:
    for launcher in launchers():
        yield partial(_latency, results, launcher, sizes.latency)


def _profiles(results: Results, sizes: Sizes) -> Measures:
    for write_event_json in PROFILED:
        yield partial(_profile, results, sizes.profiled, write_event_json)


PARTS: Mapping[str, Callable[[Results, Sizes], Measures]] = {
    "drains": _drains,
    "lanes": lambda results, sizes: iter([partial(_lanes, results, sizes.lanes)]),
    "latency": _latencies,
    "profile": _profiles,
    "memory": lambda results, sizes: iter([partial(_memory, results, sizes.large)]),
    "scale": _scale,
}


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes, five minutes: to see that it works. The figures mean little.")
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, default=list(PARTS), show_default=True, help="May be repeated.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Also write the tables to this file, as Markdown.")
@click.option("--pictures", "folder", type=click.Path(file_okay=False, path_type=Path), help="Also draw them in this folder, as SVG.")
def main(quick: bool, only: tuple[str, ...], save: Path | None, folder: Path | None) -> None:
    """Start real servers with empty data, measure, print the tables, and end what was started. About half an hour.

    What was measured stays in .bench/results.json: `python -m bench.pictures` draws it again.
    """
    sizes, results = QUICK if quick else Sizes(), Results()
    with servers(FOLDER / "servers"):
        for measure in chain.from_iterable(find(results, sizes) for name, find in PARTS.items() if name in only):
            measure()
            # After each, so that what was measured stays when somebody stops it.
            pictures.save(results, FOLDER / "results.json")
            if save:
                save.write_text(report.markdown(results), encoding="utf-8")
    if folder:
        pictures.draw(results, folder)
    click.echo(report.markdown(results))


def _lanes(results: Results, events: int) -> None:
    with _bar("null stores: one lane, then two", 2 * events) as advance:
        results.scaling = scaling(FOLDER / "stack", events, advance)


def _profile(results: Results, events: int, write_event_json: EventObjects) -> None:
    with _bar(f"the client's time: {write_event_json.value}", 1) as advance:
        world = new_world(lanes="1", **write_event_json.settings)
        results.client.append(client_time(world, write_event_json.value, events))
        advance(1)


def _latency(results: Results, launcher: str, events: int) -> None:
    with _bar(f"seen, of {RATE:g} events a second: {launcher}", events) as advance:
        results.latencies.append(latency(FOLDER / "stack", launcher, Load(RATE, events), advance))


def _memory(results: Results, records: int) -> None:
    with _bar("drained: records of 900 KB", records) as advance:
        results.large_records_mib = drain_large(FOLDER / "stack", records, on_progress=advance)


def _ceilings(results: Results, events: int) -> None:
    with _bar("raw ceilings", 5) as advance:
        results.ceilings = ceilings(events, advance)


def _drain(results: Results, events: int, lanes: int, write_event_json: EventObjects) -> None:
    name = f"drained: {lanes} lane{'s' if lanes > 1 else ''}, {write_event_json.value}"
    with _bar(name, events) as advance:
        results.drained.append(drain(FOLDER / "stack", events, lanes=lanes, write_event_json=write_event_json, on_progress=advance))


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    with progress_bar(what, total) as bar:
        yield lambda done: bar.update(bar.task_ids[0], completed=done)


if __name__ == "__main__":
    main()
