"""Metrics in the formats of Prometheus, rendered by prometheus_client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from analytics_defs.web.metric_families import MetricFamily, MetricKind

_JSON, _TEXT, _OPENMETRICS = "application/json", "text/plain", "application/openmetrics-text"


class ExpositionFormat(StrEnum):
    """Formats in which metrics can be answered."""

    JSON = "json"
    PROMETHEUS = "prometheus"
    OPENMETRICS = "openmetrics"


_ACCEPT = {
    ExpositionFormat.JSON: _JSON,
    ExpositionFormat.PROMETHEUS: f"{_TEXT}; version=0.0.4",
    ExpositionFormat.OPENMETRICS: f"{_OPENMETRICS}; version=1.0.0",
}


@dataclass(frozen=True, slots=True)
class Exposition:
    """Encoded metrics."""

    body: bytes
    content_type: str


def accept_header(format_: ExpositionFormat) -> str:
    """Return an Accept header that selects this format, in the version that every scraper reads."""
    return _ACCEPT[format_]


def accepts_prometheus(accept: str) -> bool:
    """Return whether the header names a format of Prometheus and does not name JSON. Wildcards and q-values are ignored."""
    named = {media_range.partition(";")[0].strip().lower() for media_range in accept.split(",")}
    return _JSON not in named and not named.isdisjoint({_TEXT, _OPENMETRICS})


def render_metrics(families: Sequence[MetricFamily], accept: str) -> Exposition:
    """Render the families in the format and version that prometheus_client chooses for this Accept header."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FamilyCollector(families))
    encoder, content_type = choose_encoder(accept)
    return Exposition(encoder(registry), content_type)


class _FamilyCollector(Collector):
    def __init__(self, families: Iterable[MetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            labels = tuple(family.samples[0].labels)
            make = CounterMetricFamily if family.kind is MetricKind.COUNTER else GaugeMetricFamily
            metric = make(family.name, family.help, labels=labels)
            for sample in family.samples:
                metric.add_metric([sample.labels[label] for label in labels], sample.value)
            yield metric
