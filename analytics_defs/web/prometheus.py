"""Metric families in the formats that scrapers read, by prometheus_client, and which format a client asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from analytics_defs.web.metric_families import MetricFamily, MetricKind

OPENMETRICS, TEXT = "application/openmetrics-text", "text/plain"


class ExpositionFormat(StrEnum):
    JSON = "json"
    PROMETHEUS = "prometheus"
    OPENMETRICS = "openmetrics"


_OFFERED = {ExpositionFormat.JSON: "application/json", ExpositionFormat.PROMETHEUS: TEXT, ExpositionFormat.OPENMETRICS: OPENMETRICS}
"""JSON first: it is what those get who take everything alike."""


@dataclass(frozen=True, slots=True)
class Exposition:
    body: bytes
    content_type: str


def negotiate_format(accept: str) -> ExpositionFormat:
    """The one of the three that the client likes best, the earlier one of two that it likes alike; JSON where it wants none of them."""
    ranges = [_media_range(each) for each in accept.split(",")]
    liked = []
    for offer, (format, media_type) in enumerate(_OFFERED.items()):
        for pattern in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):  # the most precise one decides
            fitting = [(-quality, place, offer, format) for place, (name, quality) in enumerate(ranges) if name == pattern]
            if fitting:
                liked.append(min(fitting))
                break
    best = min(liked, default=None)
    return best[-1] if best is not None and best[0] < 0 else ExpositionFormat.JSON


def _media_range(text: str) -> tuple[str, float]:
    """`text/plain;version=0.0.4;q=0.5` as name and quality; a quality that is none is 0."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    return name, next((_quality(part.removeprefix("q=")) for part in parameters if part.startswith("q=")), 1.0)


def _quality(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if 0 <= found <= 1 else 0.0


def render_metrics(families: Sequence[MetricFamily], accept: str, wanted: ExpositionFormat) -> Exposition:
    """`accept` also names the version of the format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    encoder, content_type = _encoder(accept, wanted)
    return Exposition(encoder(registry), content_type)


def _encoder(accept: str, wanted: ExpositionFormat) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    if negotiate_format(accept) is not wanted:  # asked for by name: the version that every scraper reads
        accept = OPENMETRICS + "; version=1.0.0" if wanted is ExpositionFormat.OPENMETRICS else TEXT + "; version=0.0.4"
    elif wanted is ExpositionFormat.PROMETHEUS:
        accept = ",".join(each for each in accept.split(",") if OPENMETRICS not in each.lower())
    encoder, content_type = choose_encoder(accept)
    return encoder, content_type


class _Families(Collector):
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
