"""Topic settings as the broker reports them."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest

from analytics_defs.adapters.kafka.topic_config import topic_retention
from analytics_defs.core.monitoring.backlog import TopicRetention


@pytest.mark.parametrize(
    ("milliseconds", "age"),
    [
        ("604800000", timedelta(days=7)),
        ("0", timedelta(0)),
        ("-1", timedelta.max),
        (str(10**17), timedelta.max),
        (str(2**63 - 1), timedelta.max),
    ],
)
def test_a_retention_beyond_the_calendar_is_unlimited(milliseconds: str, age: timedelta) -> None:
    settings = {"retention.ms": SimpleNamespace(value=milliseconds)}
    assert topic_retention(settings) == TopicRetention(age)  # type: ignore[arg-type]
