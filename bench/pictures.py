"""Figures as pictures for the docs. `python -m bench.pictures RESULTS FOLDER` draws saved ones again.

SVG with a background of its own, so that dark and light pages show the same; letters are shapes, so that no font is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from bench.client_time import ClientTime, Share, order
from bench.drain import Drained
from bench.latency import Latency
from bench.report import Results, in_batches, name, seconds_by_step, steps_of

COLOURS = ("#3b6fd4", "#e0a12b", "#2a9d5c", "#c4453b", "#8a63b8", "#4aa3b5", "#7a7a7a")
DARK, PALE, BLACK = COLOURS[0], "#a9c1ee", "#222222"
STYLE: Any = {"svg.fonttype": "path", "svg.hashsalt": "bench", "font.size": 9.0, "axes.titlesize": 11.0, "legend.fontsize": 8.5}
WIDTH = 9.0
LEAST_SHARE = 0.02
"""Lines of the client's time below this are drawn as one."""
LEAST_SHOWN = 0.05
"""A bar without length has no figure."""
MISSING = "not accounted"


def save(results: Results, path: Path) -> None:
    path.write_bytes(TypeAdapter(Results).dump_json(results, indent=1))


def load(path: Path) -> Results:
    return TypeAdapter(Results).validate_json(path.read_bytes())


def draw(results: Results, folder: Path) -> list[Path]:
    """What there are figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    with mpl.rc_context(STYLE):
        if results.drained:
            figures = {"throughput": throughput(results), "steps": steps(results.drained)}
        if results.latencies:
            figures["latency"] = latency(results.latencies)
        if results.client:
            figures["client-time"] = client(results.client)
        return [_written(figure, folder / f"bench-{what}.svg") for what, figure in figures.items()]


def throughput(results: Results) -> Figure:
    """Bars for the drains, and a mark on each for what the stores give at most."""
    drained, ceilings = results.drained, results.ceilings
    figure, axes = _bars(_labels(drained), "Events a second, beside what the stores give at most")
    rows = range(len(drained))
    axes.barh(rows, [in_batches(each) for each in drained], height=0.72, color=PALE, label="in batches, without the starts of processes")
    bars = axes.barh(rows, [each.per_second for each in drained], height=0.42, color=DARK, label="from first run to last close")
    axes.bar_label(bars, fmt="{:,.0f}", label_type="center", color="white", fontsize=8.5)
    if ceilings:
        alone, together = ([limit(each.write_event_json) for each in drained] for limit in (ceilings.of, ceilings.side_by_side))
        axes.scatter(alone, rows, marker="|", s=260, linewidths=2.2, color=COLOURS[3], label="raw ceiling of the limiting store alone")
        axes.scatter(together, rows, marker="D", s=26, color=BLACK, label="raw ceiling, all requests side by side", zorder=3)
    axes.set_xlim(left=0)
    return _finished(figure, axes, "events a second", columns=2)


def steps(drained: Sequence[Drained]) -> Figure:
    """Stacked bars: a step's colour is the same in all."""
    figure, axes = _bars(_labels(drained), "Seconds by step for each 100,000 events, summed over threads")
    before = [0.0] * len(drained)
    for number, step in enumerate(steps_of(drained)):
        values = [seconds_by_step(each).get(step, 0.0) for each in drained]
        axes.barh(range(len(drained)), values, left=before, height=0.7, label=step, color=COLOURS[number % len(COLOURS)])
        before = [left + value for left, value in zip(before, values, strict=True)]
    return _finished(figure, axes, "thread-seconds (steps overlap)", columns=7)


def latency(found: Sequence[Latency]) -> Figure:
    labels = [f"{each.launcher}\n{each.events:,} events at {each.per_second:g}/s" for each in found]
    figure, axes = _bars(labels, "From a record's production to its queryable item")
    series = {
        "p50": [each.p50_seconds for each in found],
        "p99": [each.p99_seconds for each in found],
        "worst": [each.worst_seconds for each in found],
    }
    _grouped(axes, series, "{:.1f} s")
    return _finished(figure, axes, "seconds", columns=3)


def client(found: Sequence[ClientTime]) -> Figure:
    """Two panels with the same lines, CPU beside wall time. Small lines are drawn as one."""
    shares = {each.how: {**each.shares, MISSING: each.not_accounted} for each in found}
    drawn, small = _lines(list(shares.values()))
    figure = Figure(figsize=(WIDTH + 1.5, 1.3 + 0.34 * (len(drawn) + 2)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("cpu", "wall"), strict=True):
        percents = {how: {line: 100 * getattr(share, kind) for line, share in each.items()} for how, each in shares.items()}
        series = {
            how: [*(each.get(line, 0.0) for line in drawn), sum(each.get(line, 0.0) for line in small), each[MISSING]]
            for how, each in percents.items()
        }
        _grouped(axes, series, "{:.1f}")
        axes.set_title(f"% of {'CPU' if kind == 'cpu' else kind} time", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12, y=0.01)
        axes.set_xlim(left=0)
    panels[0].set_yticks(range(len(drawn) + 2), [*drawn, f"the rest ({len(small)}), each below {LEAST_SHARE:.0%}", MISSING])
    panels[0].invert_yaxis()
    figure.suptitle("Where a run's process spends its time", x=0.01, ha="left", fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=len(found), frameon=False, loc="outside lower center")
    return figure


def _lines(found: Sequence[Mapping[str, Share]]) -> tuple[list[str], list[str]]:
    """Those that are large enough somewhere to be seen, in the order of a batch's life, and the others."""
    there = [line for line in order() if any(line in each for each in found)]
    large = [line for line in there if any(max(each[line].cpu, each[line].wall) >= LEAST_SHARE for each in found if line in each)]
    return large, [line for line in there if line not in large]


def _labels(drained: Sequence[Drained]) -> list[str]:
    return [f"{name(each)}: {each.events:,} events" for each in drained]


def _bars(labels: Sequence[str], title: str) -> tuple[Figure, Axes]:
    """One row for each label, the first on top."""
    figure = Figure(figsize=(WIDTH, 1.5 + 0.38 * max(3, len(labels))), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _grouped(axes: Axes, series: Mapping[str, Sequence[float]], form: str) -> None:
    """Bars below each other in every row, each with its figure."""
    height = 0.8 / len(series)
    for number, (label, values) in enumerate(series.items()):
        at = [row + (number - (len(series) - 1) / 2) * height for row in range(len(values))]
        bars = axes.barh(at, values, height=height * 0.9, label=label, color=COLOURS[number])
        axes.bar_label(bars, [form.format(value) if value >= LEAST_SHOWN else "" for value in values], padding=2, fontsize=8)


def _finished(figure: Figure, axes: Axes, along: str, *, columns: int) -> Figure:
    axes.invert_yaxis()
    axes.set_xlabel(along)
    axes.margins(x=0.06, y=0.02)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(ncols=columns, frameon=False, loc="outside lower center")
    return figure


def _written(figure: Figure, path: Path) -> Path:
    FigureCanvasSVG(figure)
    figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
    return path


if __name__ == "__main__":
    draw(load(Path(sys.argv[1])), Path(sys.argv[2]))
