"""Charts as PNG. matplotlib is imported here, and by nothing that a micro-batch runs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = {"ProductCreated": "#2a9d5c", "ProductUpdated": "#3b6fd4", "ProductDeleted": "#c4453b", "LowStockWarning": "#e0a12b"}
_OTHER = "#7a7a7a"
_WIDTH, _DPI = 8.0, 80


def stacked(labels: Sequence[str], series: Mapping[str, Sequence[int]], title: str, along: str) -> bytes:
    """Bars on top of each other, one for each label; `series` by event type, each as long as the labels."""
    figure = Figure(figsize=(_WIDTH, 3.0), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    below = [0] * len(labels)
    for name, values in series.items():
        axes.bar(range(len(labels)), values, bottom=below, width=0.85, label=name, color=_COLOURS.get(name, _OTHER))
        below = [lower + value for lower, value in zip(below, values, strict=True)]
    every = max(1, len(labels) // 12)
    axes.set_xticks(range(0, len(labels), every), labels[::every])
    axes.set_xlabel(along)
    axes.margins(x=0.01)
    axes.set_ylabel("events")
    axes.set_ylim(bottom=0, top=None if any(below) else 1)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if any(below):
        figure.legend(ncols=4, fontsize=8, frameon=False, loc="outside lower center")
    return _png(figure)


def ranked(values: Sequence[tuple[str, Mapping[str, int]]], title: str) -> bytes:
    """One bar for each name, the first on top, in the colours of what it is made of."""
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.24 * max(4, len(values))), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys(kind for _, counts in values for kind in counts))
    before = [0] * len(values)
    for kind in kinds:
        counts = [each.get(kind, 0) for _, each in values]
        axes.barh(range(len(values)), counts, left=before, height=0.75, label=kind, color=_COLOURS.get(kind, _OTHER))
        before = [left + count for left, count in zip(before, counts, strict=True)]
    axes.set_yticks(range(len(values)), [name if len(name) <= 40 else f"{name[:39]}…" for name, _ in values], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("events")
    axes.set_xlim(left=0, right=None if any(before) else 1)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if any(before):
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
