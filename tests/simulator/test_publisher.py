"""`analytics produce`: a steady rate, an exact count, and a stop that loses no record."""

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
from tests.contracts.event_log_fixtures import MockCluster, short_timeouts


class Recorder:
    """A producer that confirms each record immediately. Calls `before_record` with the number of records so far."""

    def __init__(self, before_record: Callable[[int], None] = lambda _: None) -> None:
        self.records: list[OutgoingRecord] = []
        self.calls = 0
        self._before_record = before_record

    def publish(self, records: Iterable[OutgoingRecord], on_progress: Callable[[int], None]) -> int:
        self.calls += 1
        before = len(self.records)
        for record in records:
            self._before_record(len(self.records))
            self.records.append(record)
            on_progress(len(self.records) - before)
        return len(self.records) - before


def ignore(_: int) -> None: ...


def load_generator(recorder: Recorder) -> LoadGenerator:
    return LoadGenerator(recorder, simulated_records(1, CLEAN_MIX, EVENT_TYPES))


def test_without_a_rate_a_count_is_published_exactly_in_one_call() -> None:
    recorder = Recorder()
    generator = load_generator(recorder)
    generator.run(None, 500, ignore)
    assert (len(recorder.records), recorder.calls, generator.confirmed) == (500, 1, 500)


def test_a_rate_is_published_in_slices_up_to_the_count() -> None:
    recorder, confirmed = Recorder(), list[int]()
    generator = load_generator(recorder)
    generator.run(100, 60, confirmed.append)
    assert (len(recorder.records), generator.confirmed, confirmed[-1]) == (60, 60, 60)
    assert recorder.calls >= 3
    assert confirmed == sorted(confirmed)


def test_a_signal_stops_it_after_records_in_flight_are_confirmed() -> None:
    recorder = Recorder(lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == 10 else None)
    generator, before = load_generator(recorder), signal.getsignal(signal.SIGTERM)
    with generator.stopped_by_signals():
        generator.run(None, None, ignore)
    assert (generator.confirmed, signal.getsignal(signal.SIGTERM)) == (len(recorder.records), before)
    assert 11 <= generator.confirmed < 1_000


def test_the_number_of_records_confirmed_before_a_failure_is_kept() -> None:
    def fail(count: int) -> None:
        if count == 30:
            raise Unavailable("the broker is down")

    generator = load_generator(Recorder(fail))
    with pytest.raises(Unavailable) as raised:
        generator.run(None, 100, ignore)
    assert (generator.confirmed, exit_code(raised.value)) == (30, UNAVAILABLE)


def test_event_types_are_assigned_to_other_topics_in_turn() -> None:
    records = list(islice(simulated_records(1, CLEAN_MIX, ("one", "two")), 500))
    by_topic: dict[str, set[str]] = {}
    for topic, _, value, _ in records:
        by_topic.setdefault(topic, set()).add(json.loads(value or b"")["type"])
    assert by_topic == {"one": {EVENT_TYPES[0], EVENT_TYPES[2]}, "two": {EVENT_TYPES[1], EVENT_TYPES[3]}}


def test_the_command_publishes_to_the_broker_and_prints_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = MockCluster()
    topic = cluster.create_topic()
    log = KafkaEventLog(short_timeouts(cluster.brokers))
    monkeypatch.setenv("KAFKA_BROKERS", cluster.brokers)
    monkeypatch.setenv("KAFKA_TOPICS", topic)
    try:
        result = CliRunner().invoke(analytics, ["produce", "--count", "300", "--seed", "7", "--broken", "0.1"], catch_exceptions=False)
        assert (result.exit_code, result.stdout) == (0, "300 records confirmed (seed 7)\n")
        partitions = [TopicPartition(topic, 0, number) for number in log.topics([topic])[topic].partitions]
        assert sum(marks.high_watermark for marks in log.watermarks(partitions).values()) == 300
    finally:
        log.close()
        cluster.close()
