"""What the always-on job asks of Kafka: the oldest record that waits in each partition, at few readings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.monitoring.backlog import Backlog
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.flows import health_checks
from analytics_defs.flows.health_checks import HealthClients, read_backlog
from tests.proof.doors import Call, through
from tests.proof.world import TOPIC, World, event
from tests.web.served import Retention

STARTED_MS = 1_700_000_000_000


class Scene:
    """A broker with many partitions, a record in each, and a count of the readings."""

    def __init__(self, partitions: int) -> None:
        self.world = World()
        self.world.create(partitions=partitions)
        for number in range(partitions):
            self.append(number, seconds=number)
        self.readings: list[int] = []
        """How many partitions each was about."""
        self.turns: Counter[int] = Counter()
        """How often each partition was read."""
        ports = through(self.world.ports, self._door)
        self.doors = HealthClients((TOPIC,), ports, ports.event_log, Retention())
        self.told = Backlog()

    def _door(self, call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "read":
            self.readings.append(len(call.args[0]))
            self.turns.update(each.topic_partition.partition for each in call.args[0])
        return perform()

    def append(self, partition: int, *, seconds: int, aborted: bool = False) -> None:
        self.world.event_log.append(TOPIC, partition, event("e"), timestamp_ms=STARTED_MS + 1000 * seconds, aborted=aborted)

    def ask(self) -> dict[int, float | None]:
        """Seconds of the oldest record that waits, by partition."""
        self.told = read_backlog(self.doors, self.world.plan().lags, self.told)
        return {
            each.partition: found.since.timestamp() - STARTED_MS / 1000 if found.since else None for each, found in self.told.oldest.items()
        }


def test_many_partitions_are_looked_at_in_one_reading_and_not_again_while_they_stand() -> None:
    scene = Scene(partitions=40)
    assert scene.ask() == {number: number for number in range(40)}
    assert scene.readings == [40]
    assert scene.ask() == {number: number for number in range(40)}
    assert scene.readings == [40]
    scene.world.settle()
    scene.append(7, seconds=100)
    assert scene.ask() == {7: 100}
    assert scene.readings == [40, 1]


def test_every_partition_has_its_turn_also_where_others_are_further_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody looks at nobody is warned of."""
    monkeypatch.setattr(health_checks, "PARTITIONS_AT_ONCE", 10)
    scene = Scene(partitions=25)
    for number in range(24):
        for _ in range(5):
            scene.append(number, seconds=200)
    assert len(scene.ask()) == 10
    assert len(scene.ask()) == 20
    assert scene.ask() == {number: number for number in range(25)}
    assert scene.readings == [10, 10, 5]


def test_turns_are_equal_also_while_every_head_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_checks, "PARTITIONS_AT_ONCE", 10)
    scene = Scene(partitions=25)
    for number in range(25):
        for _ in range(5):
            scene.append(number, seconds=200)
    for next in range(5):
        lags = [PartitionLag(TopicPartition(TOPIC, 0, number), next, 6, 6, 0, next) for number in range(25)]
        scene.told = read_backlog(scene.doors, lags, scene.told)
    assert scene.turns == dict.fromkeys(range(25), 2)


def test_offsets_without_a_record_are_passed_over_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_checks, "MAX_OFFSET_SEARCHES", 2)
    scene = Scene(partitions=4)
    scene.world.settle()
    for number in range(4):
        scene.append(number, seconds=50, aborted=True)
        scene.append(number, seconds=60 + number)
    assert scene.ask() == {0: 60, 1: 61}
    assert scene.ask() == {0: 60, 1: 61, 2: 62, 3: 63}
    assert scene.readings == [4, 1, 1, 2, 1, 1]


def test_a_record_that_is_damaged_hides_no_other_partition() -> None:
    scene = Scene(partitions=3)
    scene.world.event_log.damage(TOPIC, 1, 0)
    assert scene.ask() == {0: 0, 1: None, 2: 2}


def test_what_retention_removed_waits_no_more() -> None:
    scene = Scene(partitions=1)
    scene.append(0, seconds=30)
    assert scene.ask() == {0: 0}
    scene.world.event_log.retain_from(TOPIC, 0, 1)
    assert scene.ask() == {0: 30}
    scene.world.event_log.retain_from(TOPIC, 0, 2)
    assert scene.ask() == {}


def test_a_record_without_a_timestamp_has_no_age() -> None:
    scene = Scene(partitions=1)
    scene.world.settle()
    scene.world.event_log.append(TOPIC, 0, event("e"), timestamp_ms=-1)
    assert scene.ask() == {0: None}
    found = scene.told.oldest[TopicPartition(TOPIC, 0, 0)]
    assert (found.position, found.size) == (1, len(event("e")))
