"""When a run of the endpoint is asked for, and when it ends by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from analytics_defs.core.monitoring.endpoint_lease import (
    HEARTBEAT_TIMEOUT,
    MAX_WAIT,
    START_TIMEOUT,
    KeeperStatus,
    StartAttempt,
    stop_reason,
    with_heartbeat,
)
from analytics_defs.core.monitoring.health import SchedulerStatus

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_a_lease_survives_its_text_and_a_cursor_that_is_lost() -> None:
    assert StartAttempt.parse(None) == StartAttempt.parse("") == StartAttempt()
    assert StartAttempt.parse(str(StartAttempt(NOW, 3))) == StartAttempt(NOW, 3)
    assert StartAttempt.parse(str(StartAttempt())) == StartAttempt()


def test_each_attempt_that_never_answered_gets_twice_the_time_up_to_a_limit() -> None:
    lease, times = StartAttempt(), []
    for _ in range(6):
        lease = lease.with_attempt(NOW)
        ends_at = lease.ends_at()
        assert ends_at is not None
        times.append(ends_at - NOW)
    assert times == [START_TIMEOUT, START_TIMEOUT * 2, START_TIMEOUT * 4, START_TIMEOUT * 8, MAX_WAIT, MAX_WAIT]
    assert StartAttempt().ends_at() is None
    assert StartAttempt(NOW, 10_000).ends_at() == NOW + MAX_WAIT


def test_a_run_ends_without_a_heartbeat_also_where_there_never_was_one_or_nobody_can_be_asked() -> None:
    start = KeeperStatus(sensor_stopped=False, heartbeat_at=NOW)
    for found in (
        None,
        SchedulerStatus(sensor_stopped=False, heartbeat=None),
        SchedulerStatus(sensor_stopped=False, heartbeat=NOW - SECOND),
    ):
        signs = with_heartbeat(start, found)
        assert stop_reason(signs, NOW + HEARTBEAT_TIMEOUT) is None
        assert stop_reason(signs, NOW + HEARTBEAT_TIMEOUT + SECOND) == "Dagster's daemon gave no sign of life for 61 s"
    beating = with_heartbeat(start, SchedulerStatus(sensor_stopped=False, heartbeat=NOW + HEARTBEAT_TIMEOUT))
    assert stop_reason(beating, NOW + HEARTBEAT_TIMEOUT + SECOND) is None


def test_a_run_ends_when_its_sensor_is_stopped() -> None:
    start = KeeperStatus(sensor_stopped=False, heartbeat_at=NOW)
    assert stop_reason(with_heartbeat(start, SchedulerStatus(sensor_stopped=True, heartbeat=NOW)), NOW) == "its sensor was stopped"
