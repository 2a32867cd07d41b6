"""Watermarks of many partitions, with scripted responses: a missing leader affects its own partition only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from analytics_defs.adapters.kafka.admin import EARLIEST, KafkaAdmin
from analytics_defs.adapters.kafka.client import TIMED_OUT, KafkaConfig
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import AccessDenied, Unavailable
from analytics_defs.ports import PartitionWatermarks, Watermarks

FIRST, SECOND = (TopicPartition("ProductCreated", 2, number) for number in (1, 2))
NO_LEADER, DENIED = KafkaError.LEADER_NOT_AVAILABLE, KafkaError.TOPIC_AUTHORIZATION_FAILED


@dataclass
class ScriptedClient:
    """Returns the scripted results of each partition in turn, then the last one again: error codes, or None for the offsets 3, 7 and 9."""

    results: Mapping[int, Sequence[int | None]]
    requests: list[tuple[int, ...]] = field(default_factory=list)

    def poll(self, _: float) -> int:
        return 0

    def list_offsets(
        self, specs: Mapping[KafkaPartition, OffsetSpec], *, isolation_level: IsolationLevel, **_: Any
    ) -> dict[KafkaPartition, Future[Any]]:
        self.requests.append(tuple(key.partition for key in specs))
        high = 9 if isolation_level == IsolationLevel.READ_UNCOMMITTED else 7
        return {key: self._result(key.partition, 3 if spec is EARLIEST else high) for key, spec in specs.items()}

    def _result(self, partition: int, offset: int) -> Future[Any]:
        script = self.results[partition]
        count = sum(partition in request for request in self.requests)
        code, future = script[min(count, len(script)) - 1], Future[Any]()
        if code is None:
            future.set_result(SimpleNamespace(offset=offset))
        else:
            future.set_exception(KafkaException(KafkaError(code)))
        return future


class ScriptedAdmin(KafkaAdmin):
    def __init__(self, script: ScriptedClient) -> None:
        super().__init__(KafkaConfig("broker:9092", request_timeout=timedelta(milliseconds=400)))
        self._script = script

    def _admin(self) -> AdminClient:
        return cast(AdminClient, self._script)


def read_watermarks(**results: Sequence[int | None]) -> tuple[PartitionWatermarks, ScriptedClient]:
    script = ScriptedClient({1: results["first"], 2: results["second"]})
    return ScriptedAdmin(script).available_watermarks([FIRST, SECOND]), script


def test_if_all_leaders_answer_no_partition_is_unavailable() -> None:
    result, _ = read_watermarks(first=[None], second=[None])
    assert result == PartitionWatermarks({FIRST: Watermarks(3, 7, 9), SECOND: Watermarks(3, 7, 9)}, {})


def test_only_the_partition_without_a_leader_has_an_error() -> None:
    result, script = read_watermarks(first=[NO_LEADER], second=[None])
    assert (dict(result.watermarks), list(result.unavailable)) == ({SECOND: Watermarks(3, 7, 9)}, [FIRST])
    assert str(result.unavailable[FIRST]).startswith("Kafka at broker:9092: reading watermarks of ProductCreated@2/1: ")
    assert "LEADER_NOT_AVAILABLE" in str(result.unavailable[FIRST])
    assert script.requests[0] == (1, 2)
    assert set(script.requests[1:-2]) == {(1,)}, "retried for a while, only for the partition without a result"
    assert script.requests[-2:] == [(2,), (2,)], "no further offsets are requested for it"


@pytest.mark.parametrize("code", [TIMED_OUT, NO_LEADER])
def test_a_leader_lost_between_two_requests_makes_its_partition_unavailable(code: int) -> None:
    result, _ = read_watermarks(first=[None, code], second=[None])
    assert (list(result.watermarks), list(result.unavailable)) == ([SECOND], [FIRST])


def test_a_request_is_retried_when_the_leader_changes() -> None:
    result, _ = read_watermarks(first=[KafkaError.NOT_LEADER_FOR_PARTITION, None], second=[None])
    assert result.watermarks.keys() == {FIRST, SECOND}


def test_if_no_leader_answers_the_error_is_raised() -> None:
    with pytest.raises(Unavailable, match="LEADER_NOT_AVAILABLE"):
        read_watermarks(first=[NO_LEADER], second=[NO_LEADER])


def test_a_denied_partition_raises_although_others_answer() -> None:
    with pytest.raises(AccessDenied):
        read_watermarks(first=[DENIED], second=[None])


def test_watermarks_of_all_partitions_raise_the_error_of_one() -> None:
    with pytest.raises(Unavailable, match="ProductCreated@2/1"):
        ScriptedAdmin(ScriptedClient({1: [NO_LEADER], 2: [None]})).watermarks([FIRST, SECOND])
