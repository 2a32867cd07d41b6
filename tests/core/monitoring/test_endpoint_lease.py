"""When a run of the endpoint is asked for, and when it ends by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from analytics_defs.core.monitoring.endpoint_lease import LONGEST_WAIT, SILENT_AFTER, STARTS_WITHIN, Lease, Signs, heard, why_over
from analytics_defs.core.monitoring.health import Scheduler

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_a_lease_survives_its_text_and_a_cursor_that_is_lost() -> None:
    assert Lease.parse(None) == Lease.parse("") == Lease()
    assert Lease.parse(str(Lease(NOW, 3))) == Lease(NOW, 3)
    assert Lease.parse(str(Lease())) == Lease()


def test_each_attempt_that_never_answered_gets_twice_the_time_up_to_a_limit() -> None:
    lease, times = Lease(), []
    for _ in range(6):
        lease = lease.asked(NOW)
        ends_at = lease.ends_at()
        assert ends_at is not None
        times.append(ends_at - NOW)
    assert times == [STARTS_WITHIN, STARTS_WITHIN * 2, STARTS_WITHIN * 4, STARTS_WITHIN * 8, LONGEST_WAIT, LONGEST_WAIT]
    assert Lease().ends_at() is None
    assert Lease(NOW, 10_000).ends_at() == NOW + LONGEST_WAIT


def test_a_run_ends_without_a_heartbeat_also_where_there_never_was_one_or_nobody_can_be_asked() -> None:
    start = Signs(sensor_stopped=False, heard_at=NOW)
    for found in (None, Scheduler(sensor_stopped=False, heartbeat=None), Scheduler(sensor_stopped=False, heartbeat=NOW - SECOND)):
        signs = heard(start, found)
        assert why_over(signs, NOW + SILENT_AFTER) is None
        assert why_over(signs, NOW + SILENT_AFTER + SECOND) == "Dagster's daemon gave no sign of life for 61 s"
    beating = heard(start, Scheduler(sensor_stopped=False, heartbeat=NOW + SILENT_AFTER))
    assert why_over(beating, NOW + SILENT_AFTER + SECOND) is None


def test_a_run_ends_when_its_sensor_is_stopped() -> None:
    start = Signs(sensor_stopped=False, heard_at=NOW)
    assert why_over(heard(start, Scheduler(sensor_stopped=True, heartbeat=NOW)), NOW) == "its sensor was stopped"
