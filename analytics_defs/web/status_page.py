"""The status page: the snapshot as HTML. It works without JavaScript and loads nothing else."""

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
from analytics_defs.core.monitoring.health import DAEMON_HEARTBEAT_TIMEOUT, HealthSnapshot
from analytics_defs.core.monitoring.partition_health import PartitionHealth
from analytics_defs.web import health_json

BATCHES_SHOWN = 10
PARTITIONS_SHOWN = 16
"""Partitions that are visible at once. The others can be expanded."""
CHART_WIDTH, CHART_HEIGHT, GAP = 720, 160, 4
"""SVG units. The chart scales with the window."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The events of one type in one hour."""

    x: float
    y: float
    width: float
    height: float
    kind: int
    """Index of the type, which selects the colour."""


@dataclass(frozen=True, slots=True)
class HourBars:
    """The stacked bars of one hour."""

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
    """Return stacked bars. The largest hour has the full height. Unknown types share the last colour."""
    top = max((sum(counts.values()) for counts in hours.values()), default=0)
    step = CHART_WIDTH / max(1, len(hours))
    chart = []
    for index, (hour, by_type) in enumerate(hours.items()):
        x, y, bars = index * step + GAP / 2, float(CHART_HEIGHT), []
        for name, count in sorted(by_type.items(), key=lambda item: _type_index(item[0])):
            height = CHART_HEIGHT * count / top if top else 0.0
            y -= height
            bars.append(Bar(round(x, 1), round(y, 1), round(step - GAP, 1), round(height, 1), _type_index(name)))
        chart.append(HourBars(hour, sum(by_type.values()), by_type, round(x, 1), round(step - GAP, 1), tuple(bars)))
    return chart


def _type_index(name: str) -> int:
    return EVENT_TYPES.index(name) if name in EVENT_TYPES else len(EVENT_TYPES)


UNKNOWN_LOSS_TEXT = (
    "Kafka does not report the retention of the topic (the embedded broker of make dev never does), "
    "or the growth of its log has been measured for less than a minute"
)


def render_status_page(snapshot: HealthSnapshot, ui_url: str | None) -> HTMLResponse:
    """Return the page with status 200 in every state of health: it is read by people, `/health` by machines.

    `ui_url` is the address of Dagster's UI, for links to runs.
    """
    metrics = health_json.metrics_json(snapshot)
    hours = hours_chart_bars({hour: metrics["hourlyStatsByType"].get(hour, {}) for hour in metrics["hourlyStats"]}) if metrics else []
    statistics = snapshot.ledger_statistics.value
    batches = statistics.batches[:BATCHES_SHOWN] if statistics else ()
    partitions = _halted_and_furthest_behind_first(snapshot.partitions)
    template, policy = _template()
    body = template.render(
        snapshot=snapshot,
        health=health_json.health_json(snapshot),
        metrics=metrics,
        dagster=_dagster_card(snapshot),
        backlog=_backlog_card(partitions),
        unknown_loss=UNKNOWN_LOSS_TEXT,
        partitions={"shown": partitions[:PARTITIONS_SHOWN], "more": partitions[PARTITIONS_SHOWN:]},
        hours=hours,
        top=max((hour.total for hour in hours), default=0),
        types=EVENT_TYPES,
        size=(CHART_WIDTH, CHART_HEIGHT),
        batches=[_batch_row(record, ui_url) for record in batches],
    )
    return HTMLResponse(body, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


def _halted_and_furthest_behind_first(partitions: Sequence[PartitionHealth]) -> list[PartitionHealth]:
    return sorted(partitions, key=lambda partition: (partition.halted_reason is None, -partition.lag, partition.topic_partition))


def _backlog_card(partitions: Sequence[PartitionHealth]) -> dict[str, Any]:
    """Return the worst values over all partitions that are behind. `loss`: None if no loss is foreseen."""
    behind = [partition for partition in partitions if partition.lag]
    ages = [partition.lag_seconds for partition in behind if partition.lag_seconds is not None]
    losses = [partition.seconds_until_data_loss for partition in behind if partition.seconds_until_data_loss is not None]
    loss = min(losses, default=inf)
    oldest = max(ages, default=None if behind or not partitions else 0)
    return {"count": len(behind), "oldest": oldest, "loss": None if isinf(loss) else loss}


def _dagster_card(snapshot: HealthSnapshot) -> dict[str, str]:
    result = snapshot.scheduler
    if result is None:
        return {"state": "not configured", "status": "", "detail": "DAGSTER_HOME names no instance"}
    if not result.ok or result.value is None:
        return {"state": "unknown", "status": "", "detail": result.error or "no answer yet"}
    heartbeat = result.value.heartbeat
    age = None if heartbeat is None else max(0.0, (snapshot.taken_at - heartbeat).total_seconds())
    detail = "no daemon heartbeat yet" if age is None else f"daemon heartbeat {format_duration(age)} ago"
    if result.value.sensor_stopped:
        return {"state": "sensor stopped", "status": "unhealthy", "detail": detail}
    if age is None or age > DAEMON_HEARTBEAT_TIMEOUT.total_seconds():
        return {"state": "daemon down", "status": "unhealthy", "detail": detail}
    return {"state": "running", "status": "healthy", "detail": detail}


def format_duration(seconds: float | None) -> str:
    """Return a duration in its two largest units: `6.1 s`, `12 min 5 s`, `6 d 23 h`."""
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
    first = next(index for index, (_, size) in enumerate(units) if whole >= size)
    (name, size), (smaller, smaller_size) = units[first], units[first + 1]
    rest = whole % size // smaller_size
    return f"{whole // size} {name}" + (f" {rest} {smaller}" if rest else "")


def format_number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _batch_row(record: BatchRecord, ui_url: str | None) -> dict[str, Any]:
    outcome_counts = record.outcome_counts
    return {
        "id": record.batch.id,
        "closed": record.closed_at,
        "events": outcome_counts.stored,
        "duplicates": outcome_counts.duplicates,
        "dead_letters": outcome_counts.dead_letters,
        "seconds": record.duration_ms / 1000,
        "run": f"{ui_url}/runs/{record.batch.run_id}" if ui_url and _is_dagster_run(record.batch.run_id) else None,
    }


def _is_dagster_run(run_id: str) -> bool:
    """Return False for batches of commands (`cli-…`, `redrive-…`): Dagster has no page for them."""
    try:
        UUID(run_id)
    except ValueError:
        return False
    return True


@cache
def _template() -> tuple[Template, str]:
    """Return the template with inlined style and script, and the security policy that allows exactly those two."""
    folder = files("analytics_defs.web")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("status.css", "status.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": format_duration, "number": format_number}
    source = folder.joinpath("status.html").read_text(encoding="utf-8").replace("/*style*/", style).replace("/*script*/", script)
    rules = ("default-src 'none'", f"style-src {_hash(style)}", f"script-src {_hash(script)}", "connect-src 'self'", "img-src data:")
    return environment.from_string(source), "; ".join((*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'self'"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
