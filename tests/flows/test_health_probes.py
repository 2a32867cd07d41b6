"""The query for the oldest waiting record of each partition, with few reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.monitoring.backlog import Backlog
from analytics_defs.core.offsets import MAX_TIMESTAMP_MS, TopicPartition
from analytics_defs.flows import health_probes
from analytics_defs.flows.health_probes import HealthClients, read_backlog
from tests.proof.interceptors import Call, intercept
from tests.proof.world import TOPIC, World, event
from tests.web.served import FixedRetention

STARTED_MS = 1_700_000_000_000


class Scene:
    """A broker with one record in each partition, and the reads that were made."""

    def __init__(self, partitions: int) -> None:
        self.world = World()
        self.world.create(partitions=partitions)
        for number in range(partitions):
            self.append(number, seconds=number)
        self.reads: list[int] = []
        """Number of partitions of each read."""
        self.reads_by_partition: Counter[int] = Counter()
        ports = intercept(self.world.ports, self._count)
        self.clients = HealthClients((TOPIC,), ports, ports.event_log, FixedRetention())
        self.backlog = Backlog()

    def _count(self, call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "read":
            self.reads.append(len(call.args[0]))
            self.reads_by_partition.update(range_.topic_partition.partition for range_ in call.args[0])
        return perform()

    def append(self, partition: int, *, seconds: int, aborted: bool = False) -> None:
        self.world.event_log.append(TOPIC, partition, event("e"), timestamp_ms=STARTED_MS + 1000 * seconds, aborted=aborted)

    def oldest(self) -> dict[int, float | None]:
        """Query again. Return the seconds of the oldest waiting record by partition."""
        self.backlog = read_backlog(self.clients, self.world.plan().lags, self.backlog)
        return {
            key.partition: record.since.timestamp() - STARTED_MS / 1000 if record.since else None
            for key, record in self.backlog.oldest.items()
        }


def test_many_partitions_are_one_read_and_are_not_read_again_while_unmoved() -> None:
    scene = Scene(partitions=40)
    assert scene.oldest() == {number: number for number in range(40)}
    assert scene.reads == [40]
    assert scene.oldest() == {number: number for number in range(40)}
    assert scene.reads == [40]
    scene.world.settle()
    scene.append(7, seconds=100)
    assert scene.oldest() == {7: 100}
    assert scene.reads == [40, 1]


def test_partitions_that_are_less_behind_are_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition that is never read would never raise an alert."""
    monkeypatch.setattr(health_probes, "PARTITIONS_PER_READ", 10)
    scene = Scene(partitions=25)
    for number in range(24):
        for _ in range(5):
            scene.append(number, seconds=200)
    assert len(scene.oldest()) == 10
    assert len(scene.oldest()) == 20
    assert scene.oldest() == {number: number for number in range(25)}
    assert scene.reads == [10, 10, 5]


def test_partitions_are_read_equally_often_while_every_checkpoint_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_probes, "PARTITIONS_PER_READ", 10)
    scene = Scene(partitions=25)
    for number in range(25):
        for _ in range(5):
            scene.append(number, seconds=200)
    for offset in range(5):
        lags = [PartitionLag(TopicPartition(TOPIC, 0, number), offset, 6, 6, 0, offset) for number in range(25)]
        scene.backlog = read_backlog(scene.clients, lags, scene.backlog)
    assert scene.reads_by_partition == dict.fromkeys(range(25), 2)


def test_partitions_whose_next_offset_has_no_record_are_searched_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_probes, "MAX_OFFSET_SEARCHES", 2)
    scene = Scene(partitions=4)
    scene.world.settle()
    for number in range(4):
        scene.append(number, seconds=50, aborted=True)
        scene.append(number, seconds=60 + number)
    assert scene.oldest() == {0: 60, 1: 61}
    assert scene.oldest() == {0: 60, 1: 61, 2: 62, 3: 63}
    assert scene.reads == [4, 1, 1, 2, 1, 1]


def test_a_damaged_record_hides_no_other_partition() -> None:
    scene = Scene(partitions=3)
    scene.world.event_log.damage(TOPIC, 1, 0)
    assert scene.oldest() == {0: 0, 1: None, 2: 2}


@pytest.mark.parametrize("timestamp_ms", [1_796_084_566_626_462_208, 2**63 - 1, -(2**63), -62_135_596_800_000])
def test_a_timestamp_that_is_no_date_hides_no_other_partition(timestamp_ms: int) -> None:
    scene = Scene(partitions=3)
    scene.world.settle()
    for number, time in enumerate((STARTED_MS, timestamp_ms, MAX_TIMESTAMP_MS)):
        scene.world.event_log.append(TOPIC, number, event("e"), timestamp_ms=time)
    assert scene.oldest() == {0: 0, 1: None, 2: (MAX_TIMESTAMP_MS - STARTED_MS) / 1000}
    scene.world.settle()
    assert scene.oldest() == {}


def test_a_record_that_retention_removed_is_not_waiting() -> None:
    scene = Scene(partitions=1)
    scene.append(0, seconds=30)
    assert scene.oldest() == {0: 0}
    scene.world.event_log.retain_from(TOPIC, 0, 1)
    assert scene.oldest() == {0: 30}
    scene.world.event_log.retain_from(TOPIC, 0, 2)
    assert scene.oldest() == {}


def test_a_record_without_a_timestamp_has_no_age() -> None:
    scene = Scene(partitions=1)
    scene.world.settle()
    scene.world.event_log.append(TOPIC, 0, event("e"), timestamp_ms=-1)
    assert scene.oldest() == {0: None}
    record = scene.backlog.oldest[TopicPartition(TOPIC, 0, 0)]
    assert (record.position, record.size) == (1, len(event("e")))
