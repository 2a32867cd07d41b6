"""Metric families in the formats that scrapers read, by prometheus_client, and which format a client asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from analytics_defs.core.metrics import Family, Kind

OPENMETRICS, TEXT = "application/openmetrics-text", "text/plain"


class Format(StrEnum):
    JSON = "json"
    PROMETHEUS = "prometheus"
    OPENMETRICS = "openmetrics"


_BY_TYPE = {OPENMETRICS: Format.OPENMETRICS, TEXT: Format.PROMETHEUS, "application/json": Format.JSON}


@dataclass(frozen=True, slots=True)
class Exposition:
    body: bytes
    content_type: str


def asked_for(accept: str) -> Format:
    """The one of the three that the client likes best; JSON for anything else, also for whoever takes everything."""
    liked: list[tuple[float, int, Format]] = []
    for place, each in enumerate(accept.split(",")):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        quality = next((_quality(part.removeprefix("q=")) for part in parameters if part.startswith("q=")), 1.0)
        if name in _BY_TYPE and quality > 0:
            liked.append((-quality, place, _BY_TYPE[name]))
    return min(liked)[2] if liked else Format.JSON


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def expose(families: Sequence[Family], accept: str, wanted: Format) -> Exposition:
    """`accept` also names the version of the format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    encoder, content_type = _encoder(accept, wanted)
    return Exposition(encoder(registry), content_type)


def _encoder(accept: str, wanted: Format) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    if asked_for(accept) is not wanted:  # asked for by name: the version that every scraper reads
        accept = OPENMETRICS + "; version=1.0.0" if wanted is Format.OPENMETRICS else TEXT + "; version=0.0.4"
    elif wanted is Format.PROMETHEUS:
        accept = ",".join(each for each in accept.split(",") if OPENMETRICS not in each.lower())
    encoder, content_type = choose_encoder(accept)
    return encoder, content_type


class _Families(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            labels = tuple(family.samples[0].labels)
            make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
            metric = make(family.name, family.help, labels=labels)
            for sample in family.samples:
                metric.add_metric([sample.labels[label] for label in labels], sample.value)
            yield metric
