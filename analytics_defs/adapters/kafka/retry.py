"""Asking again while leaders and coordinators are on the move, as they are for a moment wherever a broker starts or ends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

V = TypeVar("V")

RETRY_WAIT_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Each is cut at random, so that executors do not ask in step."""
LEADER_CHANGE_ERRORS: Final = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""What a broker answers while leaders or coordinators change."""


def retry_while_leader_changes(limit_seconds: float, ask: Callable[[], V]) -> V:
    """The answer to a request that bears to be repeated. Raises its last fault where another pause would pass the limit."""
    deadline = time.monotonic() + limit_seconds
    pauses = iter(RETRY_WAIT_SECONDS)
    while True:
        try:
            return ask()
        except KafkaException as error:
            pause = next(pauses, None)
            if pause is None or error.args[0].code() not in LEADER_CHANGE_ERRORS or time.monotonic() + pause > deadline:
                raise
        time.sleep(random.uniform(0, pause))
