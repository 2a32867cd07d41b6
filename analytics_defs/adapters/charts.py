"""Charts as PNG. Only this module imports matplotlib, and no micro-batch imports it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = {"ProductCreated": "#2a9d5c", "ProductUpdated": "#3b6fd4", "ProductDeleted": "#c4453b", "LowStockWarning": "#e0a12b"}
_OTHER = "#7a7a7a"
_WIDTH, _DPI = 8.0, 80


def stacked(labels: Sequence[str], series: Mapping[str, Sequence[int]], title: str, axis_label: str) -> bytes:
    """Return stacked bars as PNG, one bar per label. `series` is by event type, each as long as the labels."""
    figure = Figure(figsize=(_WIDTH, 3.0), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    bottoms = [0] * len(labels)
    for name, values in series.items():
        axes.bar(range(len(labels)), values, bottom=bottoms, width=0.85, label=name, color=_COLOURS.get(name, _OTHER))
        bottoms = [bottom + value for bottom, value in zip(bottoms, values, strict=True)]
    step = max(1, len(labels) // 12)
    axes.set_xticks(range(0, len(labels), step), labels[::step])
    axes.set_xlabel(axis_label)
    axes.margins(x=0.01)
    axes.set_ylabel("events")
    axes.set_ylim(bottom=0, top=None if any(bottoms) else 1)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if any(bottoms):
        figure.legend(ncols=4, fontsize=8, frameon=False, loc="outside lower center")
    return _png(figure)


def ranked(values: Sequence[tuple[str, Mapping[str, int]]], title: str) -> bytes:
    """Return horizontal bars as PNG: one bar per name, the first on top, with one colour per event type."""
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.24 * max(4, len(values))), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    event_types = list(dict.fromkeys(event_type for _, counts in values for event_type in counts))
    lefts = [0] * len(values)
    for event_type in event_types:
        counts = [by_type.get(event_type, 0) for _, by_type in values]
        axes.barh(range(len(values)), counts, left=lefts, height=0.75, label=event_type, color=_COLOURS.get(event_type, _OTHER))
        lefts = [left + count for left, count in zip(lefts, counts, strict=True)]
    axes.set_yticks(range(len(values)), [name if len(name) <= 40 else f"{name[:39]}…" for name, _ in values], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("events")
    axes.set_xlim(left=0, right=None if any(lefts) else 1)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if any(lefts):
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
