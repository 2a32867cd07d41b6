"""The definitions over stores that take a fixed time for whatever they are asked: how fast lanes are where no server is the limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dagster as dg

from analytics_defs.defs.ingest import micro_batch_job, move_events
from analytics_defs.defs.platform import Platform
from analytics_defs.defs.sensor import kafka_micro_batches
from analytics_defs.ports import Claims, Ports
from tests.real.doomed import watched

CLAIM_SECONDS = 0.1


class SlowStores(Platform):
    """Every claim takes its time and nothing else: no event is written. Kafka, the ledger and the staging files are the real ones."""

    def ports(self) -> Ports:
        ports = super().ports()
        return replace(ports, recent=watched(ports, _slowly).recent)


def _slowly(name: str, perform: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    if name != "recent.claim":
        return perform(*args)
    time.sleep(CLAIM_SECONDS)
    return Claims({}, frozenset())


defs = dg.Definitions(
    assets=[move_events],
    jobs=[micro_batch_job],
    sensors=[kafka_micro_batches],
    resources={"platform": SlowStores()},
    executor=dg.in_process_executor,
)
