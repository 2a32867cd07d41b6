"""Dagster definitions whose claims take a fixed time and store nothing, so that no server limits the lanes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import dagster as dg

from analytics_defs.core.events.event import Event
from analytics_defs.defs.ingest.job import ingest_events, micro_batch_job
from analytics_defs.defs.ingest.sensor import kafka_micro_batches
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.ports import ClaimResult, Ports, StoredEvent

CLAIM_SECONDS = 0.25
"""Much longer than a claim of 100 events uses the CPU, so that the cores do not limit the lanes either."""


class NullRecentEvents:
    """An implementation of `ports.RecentEvents` that is empty and slow."""

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:  # noqa: ARG002 - nothing is stored
        time.sleep(CLAIM_SECONDS)
        return ClaimResult({}, frozenset())

    def get_items(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:  # noqa: ARG002
        return {}

    def needs_pointer(self, event: Event, batch_time: datetime) -> bool:  # noqa: ARG002
        return False


class SlowStores(Platform):
    """A platform that claims no ids. Kafka, the ledger and the bucket are real."""

    def ports(self) -> Ports:
        return replace(super().ports(), recent_events=NullRecentEvents())


defs = dg.Definitions(
    assets=[ingest_events],
    jobs=[micro_batch_job],
    sensors=[kafka_micro_batches],
    resources={"platform": SlowStores()},
    executor=dg.in_process_executor,
)
