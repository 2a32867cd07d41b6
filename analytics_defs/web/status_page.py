"""The status page: the picture as HTML. Complete without JavaScript, without any request but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import inf, isinf
from typing import Any
from uuid import UUID

from jinja2 import Environment, StrictUndefined, Template
from starlette.responses import HTMLResponse

from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.monitoring.health import (
    DAEMON_HEARTBEAT_TIMEOUT,
    HealthSnapshot,
    evaluate_health,
    lag_seconds,
    seconds_until_data_loss,
)
from analytics_defs.web import health_json

BATCHES_SHOWN = 10
PARTITIONS_SHOWN = 16
"""Those furthest behind; the others are behind a click."""
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
class HourBars:
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


def hours_chart_bars(hours: Mapping[str, Mapping[str, int]]) -> list[HourBars]:
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
        drawn.append(HourBars(hour, sum(by_type.values()), by_type, round(x, 1), round(step - GAP, 1), tuple(bars)))
    return drawn


def _place(counted: tuple[str, int]) -> int:
    return EVENT_TYPES.index(counted[0]) if counted[0] in EVENT_TYPES else len(EVENT_TYPES)


UNKNOWN_LOSS_TEXT = (
    "Kafka tells no retention of the topic (the embedded broker of make dev never does), or it is watched for less than a minute"
)


def render_status_page(picture: HealthSnapshot, ui_url: str | None) -> HTMLResponse:
    """Always 200: a person looks at it. What machines need is in /health."""
    numbers = health_json.metrics_json(picture)
    hours = hours_chart_bars({hour: numbers["hourlyStatsByType"].get(hour, {}) for hour in numbers["hourlyStats"]}) if numbers else []
    template, policy = _template()
    rows = _partitions(picture)
    body = template.render(
        picture=picture,
        verdict=evaluate_health(picture),
        health=health_json.health_json(picture),
        numbers=numbers,
        dagster=_dagster(picture),
        behind=_behind(rows),
        loss_unknown=UNKNOWN_LOSS_TEXT,
        partitions={"shown": rows[:PARTITIONS_SHOWN], "more": rows[PARTITIONS_SHOWN:]},
        hours=hours,
        top=max((each.total for each in hours), default=0),
        types=EVENT_TYPES,
        size=(CHART_WIDTH, CHART_HEIGHT),
        batches=[
            _line(each, ui_url)
            for each in (picture.ledger_statistics.value.batches if picture.ledger_statistics.value else ())[:BATCHES_SHOWN]
        ],
    )
    return HTMLResponse(body, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


def _partitions(picture: HealthSnapshot) -> list[dict[str, Any]]:
    """Those that wait for a person first, then those furthest behind."""
    stopped = picture.planning.halted if picture.planning else {}
    ordered = sorted(picture.lags, key=lambda lag: (lag.topic_partition not in stopped, -lag.offsets, lag.topic_partition))
    return [
        {
            "name": str(lag.topic_partition),
            "stopped": lag.topic_partition in stopped,
            "lag": lag.offsets,
            "age": lag_seconds(lag, picture),
            "loss": seconds_until_data_loss(lag, picture),
            "next": lag.next_offset,
        }
        for lag in ordered
    ]


def _behind(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that waits together. `oldest` and `loss` of those partitions where it is known; `loss` None where nothing is ever lost."""
    behind = [each for each in rows if each["lag"]]
    ages = [each["age"] for each in behind if each["age"] is not None]
    losses = [each["loss"] for each in behind if each["loss"] is not None]
    loss = min(losses, default=inf)
    return {"count": len(behind), "oldest": max(ages, default=None if behind or not rows else 0), "loss": None if isinf(loss) else loss}


def _dagster(picture: HealthSnapshot) -> dict[str, str]:
    told = picture.scheduler
    if told is None:
        return {"state": "not asked", "status": "", "detail": "no instance is named here"}
    if not told.ok or told.value is None:
        return {"state": "unknown", "status": "", "detail": told.error or "no answer yet"}
    beat = told.value.heartbeat
    silent = None if beat is None else max(0.0, (picture.taken_at - beat).total_seconds())
    heard = "its daemon was never heard" if silent is None else f"its daemon was heard {format_duration(silent)} ago"
    if told.value.sensor_stopped:
        return {"state": "sensor stopped", "status": "unhealthy", "detail": heard}
    if silent is None or silent > DAEMON_HEARTBEAT_TIMEOUT.total_seconds():
        return {"state": "daemon silent", "status": "unhealthy", "detail": heard}
    return {"state": "running", "status": "healthy", "detail": heard}


def format_duration(seconds: float | None) -> str:
    """In the two units that say most: `6.1 s`, `12 min 5 s`, `6 d 23 h`."""
    if seconds is None:
        return "unknown"
    if isinf(seconds):
        return "never"
    if seconds <= 0:
        return "0 s" if seconds == 0 else "no time"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    whole = int(seconds)
    first = next(place for place, (_, size) in enumerate(units) if whole >= size)
    (name, size), (smaller, smaller_size) = units[first], units[first + 1]
    rest = whole % size // smaller_size
    return f"{whole // size} {name}" + (f" {rest} {smaller}" if rest else "")


def format_number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _line(record: BatchRecord, ui_url: str | None) -> dict[str, Any]:
    tally = record.tally
    return {
        "id": record.batch.id,
        "closed": record.closed_at,
        "events": tally.stored,
        "duplicates": tally.duplicates,
        "dead_letters": tally.dead_letters,
        "seconds": record.duration_ms / 1000,
        "run": f"{ui_url}/runs/{record.batch.run_id}" if ui_url and _is_of_dagster(record.batch.run_id) else None,
    }


def _is_of_dagster(run_id: str) -> bool:
    """Commands move records too (`cli-…`, `redrive-…`), and their runs have no page."""
    try:
        UUID(run_id)
    except ValueError:
        return False
    return True


@cache
def _template() -> tuple[Template, str]:
    """The template with its style and script in it, and the policy that lets exactly those two through."""
    folder = files("analytics_defs.web")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("status.css", "status.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": format_duration, "number": format_number}
    source = folder.joinpath("status.html").read_text(encoding="utf-8").replace("/*style*/", style).replace("/*script*/", script)
    rules = ("default-src 'none'", f"style-src {_hash(style)}", f"script-src {_hash(script)}", "connect-src 'self'", "img-src data:")
    return environment.from_string(source), "; ".join((*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'self'"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
