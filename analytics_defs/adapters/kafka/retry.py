"""Retries of Kafka requests while leaders or coordinators change. That happens for a moment whenever a broker starts or stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from analytics_defs.errors import AnalyticsError

_T = TypeVar("_T")

FIRST_RETRY_SECONDS: Final = 0.1
MAX_RETRY_SECONDS: Final = 1.6
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
"""Errors that a broker returns while a leader or a coordinator changes."""


def retry_while_leader_changes(limit_seconds: float, request: Callable[[], _T]) -> _T:
    """Return the result of an idempotent request, retried with full jitter.

    Raise its last error when the next retry would start after the limit.
    """
    retrying = Retrying(
        stop=stop_before_delay(limit_seconds),
        wait=wait_random_exponential(multiplier=FIRST_RETRY_SECONDS, max=MAX_RETRY_SECONDS),
        retry=retry_if_exception(_is_leader_change),
        reraise=True,
    )
    try:
        return retrying(request)
    except (KafkaException, TimeoutError, AnalyticsError) as error:
        # The error and tenacity's frames refer to each other. Unless its traceback is dropped, they keep the failed client
        # alive until the next garbage collection, and a late commit of it would undo a newer one.
        raise error.with_traceback(None)  # noqa: B904 - it is the same error


def _is_leader_change(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in LEADER_CHANGE_ERRORS
