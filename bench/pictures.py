"""The results as charts for the docs. `python -m bench.pictures RESULTS FOLDER` draws saved results again.

The SVG files have a background, so that they look the same on dark and light pages. Text is drawn as paths, so that no
font is needed.
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

from bench.client_time import ClientTime, TimeRatio, order
from bench.drain import DrainResult
from bench.latency import Latency
from bench.report import Results, in_batches, name, seconds_by_step, steps_of

COLOURS = ("#3b6fd4", "#e0a12b", "#2a9d5c", "#c4453b", "#8a63b8", "#4aa3b5", "#7a7a7a")
DARK, PALE, BLACK = COLOURS[0], "#a9c1ee", "#222222"
STYLE: Any = {"svg.fonttype": "path", "svg.hashsalt": "bench", "font.size": 9.0, "axes.titlesize": 11.0, "legend.fontsize": 8.5}
WIDTH = 9.0
MIN_LINE_RATIO = 0.02
"""Lines of the client time below this ratio are combined."""
MIN_LABEL_VALUE = 0.05
"""Bars below this value have no label."""
NOT_ACCOUNTED = "not accounted for"


def save(results: Results, path: Path) -> None:
    path.write_bytes(TypeAdapter(Results).dump_json(results, indent=1))


def load(path: Path) -> Results:
    return TypeAdapter(Results).validate_json(path.read_bytes())


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw a chart for each benchmark that was run, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    with mpl.rc_context(STYLE):
        if results.drained:
            figures = {"throughput": throughput(results), "steps": steps(results.drained)}
        if results.latencies:
            figures["latency"] = latency(results.latencies)
        if results.client:
            figures["client-time"] = client(results.client)
        return [_written(figure, folder / f"bench-{title}.svg") for title, figure in figures.items()]


def throughput(results: Results) -> Figure:
    """Return a bar for each drain, with marks for the limits of the stores."""
    drained, ceilings = results.drained, results.ceilings
    figure, axes = _bars(_labels(drained), "Events per second, compared with the limits of the stores")
    rows = range(len(drained))
    axes.barh(rows, [in_batches(drain) for drain in drained], height=0.72, color=PALE, label="in batches, without process starts")
    bars = axes.barh(rows, [drain.per_second for drain in drained], height=0.42, color=DARK, label="from first run to last close")
    axes.bar_label(bars, fmt="{:,.0f}", label_type="center", color="white", fontsize=8.5)
    if ceilings:
        alone, together = ([limit(drain.event_json) for drain in drained] for limit in (ceilings.of, ceilings.side_by_side))
        axes.scatter(alone, rows, marker="|", s=260, linewidths=2.2, color=COLOURS[3], label="raw ceiling of the limiting store alone")
        axes.scatter(together, rows, marker="D", s=26, color=BLACK, label="raw ceiling, all requests side by side", zorder=3)
    axes.set_xlim(left=0)
    return _finished(figure, axes, "events per second", columns=2)


def steps(drained: Sequence[DrainResult]) -> Figure:
    """Return a stacked bar for each drain. A step has the same colour in all bars."""
    figure, axes = _bars(_labels(drained), "Seconds by step per 100,000 events, summed over threads")
    before = [0.0] * len(drained)
    for number, step in enumerate(steps_of(drained)):
        values = [seconds_by_step(drain).get(step, 0.0) for drain in drained]
        axes.barh(range(len(drained)), values, left=before, height=0.7, label=step, color=COLOURS[number % len(COLOURS)])
        before = [left + value for left, value in zip(before, values, strict=True)]
    return _finished(figure, axes, "thread-seconds (steps overlap)", columns=7)


def latency(latencies: Sequence[Latency]) -> Figure:
    labels = [f"{result.launcher}\n{result.events:,} events at {result.per_second:g}/s" for result in latencies]
    figure, axes = _bars(labels, "From production of a record to its queryable item")
    series = {
        "p50": [result.p50_seconds for result in latencies],
        "p99": [result.p99_seconds for result in latencies],
        "worst": [result.worst_seconds for result in latencies],
    }
    _grouped(axes, series, "{:.1f} s")
    return _finished(figure, axes, "seconds", columns=3)


def client(profiles: Sequence[ClientTime]) -> Figure:
    """Return two panels with the same lines, for CPU and wall time. Small lines are combined."""
    ratios = {profile.mode: {**profile.ratios, NOT_ACCOUNTED: profile.not_accounted} for profile in profiles}
    drawn, small = _lines(list(ratios.values()))
    figure = Figure(figsize=(WIDTH + 1.5, 1.3 + 0.34 * (len(drawn) + 2)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("cpu", "wall"), strict=True):
        percents = {mode: {line: 100 * getattr(ratio, kind) for line, ratio in lines.items()} for mode, lines in ratios.items()}
        series = {
            mode: [*(lines.get(line, 0.0) for line in drawn), sum(lines.get(line, 0.0) for line in small), lines[NOT_ACCOUNTED]]
            for mode, lines in percents.items()
        }
        _grouped(axes, series, "{:.1f}")
        axes.set_title(f"% of {'CPU' if kind == 'cpu' else kind} time", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12, y=0.01)
        axes.set_xlim(left=0)
    panels[0].set_yticks(range(len(drawn) + 2), [*drawn, f"the rest ({len(small)}), each below {MIN_LINE_RATIO:.0%}", NOT_ACCOUNTED])
    panels[0].invert_yaxis()
    figure.suptitle("Time of a run's process", x=0.01, ha="left", fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=len(profiles), frameon=False, loc="outside lower center")
    return figure


def _lines(profiles: Sequence[Mapping[str, TimeRatio]]) -> tuple[list[str], list[str]]:
    """Return the lines that are large in at least one profile, in the order of execution, and the other lines."""

    def is_large(line: str) -> bool:
        ratios = [profile[line] for profile in profiles if line in profile]
        return any(max(ratio.cpu, ratio.wall) >= MIN_LINE_RATIO for ratio in ratios)

    lines = [line for line in order() if any(line in profile for profile in profiles)]
    return list(filter(is_large, lines)), [line for line in lines if not is_large(line)]


def _labels(drained: Sequence[DrainResult]) -> list[str]:
    return [f"{name(drain)}: {drain.events:,} events" for drain in drained]


def _bars(labels: Sequence[str], title: str) -> tuple[Figure, Axes]:
    """Return axes with one row for each label, the first at the top."""
    figure = Figure(figsize=(WIDTH, 1.5 + 0.38 * max(3, len(labels))), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _grouped(axes: Axes, series: Mapping[str, Sequence[float]], label_format: str) -> None:
    """Draw the series of each row below each other, with labels."""
    height = 0.8 / len(series)
    for number, (label, values) in enumerate(series.items()):
        at = [row + (number - (len(series) - 1) / 2) * height for row in range(len(values))]
        bars = axes.barh(at, values, height=height * 0.9, label=label, color=COLOURS[number])
        axes.bar_label(bars, [label_format.format(value) if value >= MIN_LABEL_VALUE else "" for value in values], padding=2, fontsize=8)


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
