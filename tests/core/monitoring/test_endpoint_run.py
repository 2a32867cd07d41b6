"""When a run of the endpoint is requested, and when it ends by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from analytics_defs.core.monitoring.endpoint_run import (
    HEARTBEAT_TIMEOUT,
    MAX_WAIT,
    START_TIMEOUT,
    StartAttempt,
    SupervisionStatus,
    stop_reason,
    with_heartbeat,
)
from analytics_defs.core.monitoring.health import SchedulerStatus

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_an_attempt_survives_its_text_and_a_lost_cursor() -> None:
    assert StartAttempt.parse(None) == StartAttempt.parse("") == StartAttempt()
    assert StartAttempt.parse(str(StartAttempt(NOW, 3))) == StartAttempt(NOW, 3)
    assert StartAttempt.parse(str(StartAttempt())) == StartAttempt()


def test_the_time_doubles_with_each_failed_attempt_up_to_a_limit() -> None:
    attempt, timeouts = StartAttempt(), []
    for _ in range(6):
        attempt = attempt.with_attempt(NOW)
        ends_at = attempt.ends_at()
        assert ends_at is not None
        timeouts.append(ends_at - NOW)
    assert timeouts == [START_TIMEOUT, START_TIMEOUT * 2, START_TIMEOUT * 4, START_TIMEOUT * 8, MAX_WAIT, MAX_WAIT]
    assert StartAttempt().ends_at() is None
    assert StartAttempt(NOW, 10_000).ends_at() == NOW + MAX_WAIT


def test_a_run_ends_if_no_heartbeat_is_known_for_a_minute() -> None:
    start = SupervisionStatus(sensor_stopped=False, heartbeat_at=NOW)
    for scheduler in (
        None,
        SchedulerStatus(sensor_stopped=False, heartbeat=None),
        SchedulerStatus(sensor_stopped=False, heartbeat=NOW - SECOND),
    ):
        keeper = with_heartbeat(start, scheduler)
        assert stop_reason(keeper, NOW + HEARTBEAT_TIMEOUT) is None
        assert stop_reason(keeper, NOW + HEARTBEAT_TIMEOUT + SECOND) == "Dagster's daemon has sent no heartbeat for 61 s"
    alive = with_heartbeat(start, SchedulerStatus(sensor_stopped=False, heartbeat=NOW + HEARTBEAT_TIMEOUT))
    assert stop_reason(alive, NOW + HEARTBEAT_TIMEOUT + SECOND) is None


def test_a_run_ends_when_its_sensor_is_stopped() -> None:
    start = SupervisionStatus(sensor_stopped=False, heartbeat_at=NOW)
    assert stop_reason(with_heartbeat(start, SchedulerStatus(sensor_stopped=True, heartbeat=NOW)), NOW) == "its sensor was stopped"
