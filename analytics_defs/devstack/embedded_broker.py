"""The embedded Kafka of `make dev`: librdkafka's mock cluster, in a separate process, in memory.

It keeps about 5 MB per partition and then drops the oldest records. It creates topics with four partitions on first
use. It supports neither `offsets_for_times` nor topic ids.
"""

from __future__ import annotations

import signal
from pathlib import Path

from confluent_kafka import Producer

from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.devstack import env_file
from analytics_defs.devstack.processes import END_SIGNALS


def serve_broker(publish: Path) -> None:
    """Serve until SIGINT or SIGTERM. Write the address to `publish` as soon as the broker is reachable."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    cluster = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "replaced by the mock cluster"})
    for topic in EVENT_TYPES:
        cluster.list_topics(topic, timeout=10)  # the request creates the topic: the mock cluster has no other way
    [broker] = cluster.list_topics(timeout=10).brokers.values()
    env_file.write_env_file(publish, {"KAFKA_BROKERS": f"{broker.host}:{broker.port}"})
    signal.sigwait(END_SIGNALS)
