"""Lanes on Celery workers: real Redis, Postgres, Kafka and stores, workers that die, sleep and come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real import chaos

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]


def test_lanes_follow_their_work_while_workers_die_and_sleep_and_their_number_changes(tmp_path: Path) -> None:
    seen = chaos.play(tmp_path, events=9_000, rate=90)
    assert seen["rounds"] == 1
