"""The status page: the picture as HTML. Complete without JavaScript, without any request but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from starlette.responses import HTMLResponse

from analytics_defs.core import figures
from analytics_defs.core.events import EVENT_TYPES
from analytics_defs.core.health import Picture, verdict
from analytics_defs.core.ledger import BatchRecord

BATCHES = 10
CHART_WIDTH, CHART_HEIGHT, GAP = 720, 160, 4
"""In the units of the drawing, which scales with the window."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One type of events in one hour."""

    x: float
    y: float
    width: float
    height: float
    kind: int
    """Place of the type: its colour."""


@dataclass(frozen=True, slots=True)
class Hour:
    hour: str
    total: int
    by_type: Mapping[str, int]
    x: float
    width: float
    bars: tuple[Bar, ...]

    @property
    def label(self) -> str:
        return f"{self.hour}:00 UTC: {self.total:,} events" + "".join(
            f", {count:,} {name}" for name, count in self.by_type.items() if count
        )


def chart(hours: Mapping[str, Mapping[str, int]]) -> list[Hour]:
    """Stacked bars, the highest as high as the drawing. Types beyond the four that are known are drawn as the last."""
    top = max((sum(each.values()) for each in hours.values()), default=0)
    step = CHART_WIDTH / max(1, len(hours))
    drawn = []
    for place, (hour, by_type) in enumerate(hours.items()):
        x, y, bars = place * step + GAP / 2, float(CHART_HEIGHT), []
        for name, count in sorted(by_type.items(), key=_place):
            height = CHART_HEIGHT * count / top if top else 0.0
            y -= height
            bars.append(Bar(round(x, 1), round(y, 1), round(step - GAP, 1), round(height, 1), _place((name, count))))
        drawn.append(Hour(hour, sum(by_type.values()), by_type, round(x, 1), round(step - GAP, 1), tuple(bars)))
    return drawn


def _place(counted: tuple[str, int]) -> int:
    return EVENT_TYPES.index(counted[0]) if counted[0] in EVENT_TYPES else len(EVENT_TYPES)


def page(picture: Picture, ui_url: str | None) -> HTMLResponse:
    """Always 200: a person looks at it. What machines need is in /health."""
    numbers = figures.metrics(picture)
    hours = chart({hour: numbers["hourlyStatsByType"].get(hour, {}) for hour in numbers["hourlyStats"]}) if numbers else []
    template, policy = _template()
    body = template.render(
        picture=picture,
        verdict=verdict(picture),
        health=figures.health(picture),
        numbers=numbers,
        hours=hours,
        top=max((each.total for each in hours), default=0),
        types=EVENT_TYPES,
        size=(CHART_WIDTH, CHART_HEIGHT),
        batches=[_line(each, ui_url) for each in (picture.figures.value.batches if picture.figures.value else ())[:BATCHES]],
    )
    return HTMLResponse(body, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


def _line(record: BatchRecord, ui_url: str | None) -> dict[str, Any]:
    tally = record.tally
    return {
        "id": record.batch.id,
        "closed": record.closed_at,
        "events": tally.stored,
        "repeats": tally.repeats,
        "dead_letters": tally.dead_letters,
        "seconds": record.duration_ms / 1000,
        "run": f"{ui_url}/runs/{record.batch.run_id}" if ui_url else None,
    }


@cache
def _template() -> tuple[Template, str]:
    """The template with its style and script in it, and the policy that lets exactly those two through."""
    folder = files("analytics_defs.web")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("status.css", "status.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = folder.joinpath("status.html").read_text(encoding="utf-8").replace("/*style*/", style).replace("/*script*/", script)
    rules = ("default-src 'none'", f"style-src {_hash(style)}", f"script-src {_hash(script)}", "connect-src 'self'", "img-src data:")
    return environment.from_string(source), "; ".join((*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'self'"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
