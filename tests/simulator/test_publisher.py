"""`analytics produce`: a steady rate, an exact count, and an end that loses nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable
from itertools import islice

import pytest
from click.testing import CliRunner

from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.kafka.producer import OutgoingRecord
from analytics_defs.cli.app import analytics
from analytics_defs.cli.exit_codes import UNAVAILABLE, exit_code
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import Unavailable
from analytics_defs.simulator.publisher import LoadGenerator, simulated_records
from analytics_defs.simulator.shop import CLEAN_MIX
from tests.contracts.event_log_fixtures import MockCluster, impatient


class Recorder:
    """Confirms everything at once. `after` is called with the number of all records so far, before each."""

    def __init__(self, after: Callable[[int], None] = lambda _: None) -> None:
        self.records: list[OutgoingRecord] = []
        self.calls = 0
        self._after = after

    def publish(self, records: Iterable[OutgoingRecord], on_progress: Callable[[int], None]) -> int:
        self.calls += 1
        before = len(self.records)
        for record in records:
            self._after(len(self.records))
            self.records.append(record)
            on_progress(len(self.records) - before)
        return len(self.records) - before


def ignore(_: int) -> None: ...


def faucet(recorder: Recorder) -> LoadGenerator:
    return LoadGenerator(recorder, simulated_records(1, CLEAN_MIX, EVENT_TYPES))


def test_a_count_is_reached_exactly_and_at_once_without_a_rate() -> None:
    recorder = Recorder()
    opened = faucet(recorder)
    opened.run(None, 500, ignore)
    assert (len(recorder.records), recorder.calls, opened.confirmed) == (500, 1, 500)


def test_a_rate_comes_in_slices_and_ends_at_the_count() -> None:
    recorder, told = Recorder(), list[int]()
    opened = faucet(recorder)
    opened.run(100, 60, told.append)
    assert (len(recorder.records), opened.confirmed, told[-1]) == (60, 60, 60)
    assert recorder.calls >= 3
    assert told == sorted(told)


def test_a_signal_ends_it_after_what_is_under_way_is_confirmed() -> None:
    recorder = Recorder(lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == 10 else None)
    opened, before = faucet(recorder), signal.getsignal(signal.SIGTERM)
    with opened.stopped_by_signals():
        opened.run(None, None, ignore)
    assert (opened.confirmed, signal.getsignal(signal.SIGTERM)) == (len(recorder.records), before)
    assert 11 <= opened.confirmed < 1_000


def test_what_was_confirmed_before_a_failure_is_known() -> None:
    def fail(count: int) -> None:
        if count == 30:
            raise Unavailable("the broker is down")

    opened = faucet(Recorder(fail))
    with pytest.raises(Unavailable) as raised:
        opened.run(None, 100, ignore)
    assert (opened.confirmed, exit_code(raised.value)) == (30, UNAVAILABLE)


def test_types_go_to_the_topics_in_turn_where_these_are_others() -> None:
    records = list(islice(simulated_records(1, CLEAN_MIX, ("one", "two")), 500))
    by_topic: dict[str, set[str]] = {}
    for topic, _, value, _ in records:
        by_topic.setdefault(topic, set()).add(json.loads(value or b"")["type"])
    assert by_topic == {"one": {EVENT_TYPES[0], EVENT_TYPES[2]}, "two": {EVENT_TYPES[1], EVENT_TYPES[3]}}


def test_the_command_publishes_to_the_broker_of_the_settings_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = MockCluster()
    topic = cluster.create_topic()
    log = KafkaEventLog(impatient(cluster.brokers))
    monkeypatch.setenv("KAFKA_BROKERS", cluster.brokers)
    monkeypatch.setenv("KAFKA_TOPICS", topic)
    try:
        ran = CliRunner().invoke(analytics, ["produce", "--count", "300", "--seed", "7", "--broken", "0.1"], catch_exceptions=False)
        assert (ran.exit_code, ran.stdout) == (0, "300 records confirmed (seed 7)\n")
        partitions = [TopicPartition(topic, 0, number) for number in log.topics([topic])[topic].partitions]
        assert sum(marks.high_watermark for marks in log.watermarks(partitions).values()) == 300
    finally:
        log.close()
        cluster.close()
