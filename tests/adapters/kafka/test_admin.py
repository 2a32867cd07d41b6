"""Watermarks of many partitions, with answers made by hand: one leader that is away holds back its own partition only."""

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

ONE, TWO = (TopicPartition("ProductCreated", 2, number) for number in (1, 2))
AWAY, DENIED = KafkaError.LEADER_NOT_AVAILABLE, KafkaError.TOPIC_AUTHORIZATION_FAILED


@dataclass
class Scripted:
    """Answers for each partition, one after the other, the last for ever: error codes, or None for the offsets 3, 7 and 9."""

    answers: Mapping[int, Sequence[int | None]]
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def poll(self, _: float) -> int:
        return 0

    def list_offsets(
        self, asked: Mapping[KafkaPartition, OffsetSpec], *, isolation_level: IsolationLevel, **_: Any
    ) -> dict[KafkaPartition, Future[Any]]:
        self.asked.append(tuple(each.partition for each in asked))
        high = 9 if isolation_level == IsolationLevel.READ_UNCOMMITTED else 7
        return {each: self._answer(each.partition, 3 if spec is EARLIEST else high) for each, spec in asked.items()}

    def _answer(self, partition: int, offset: int) -> Future[Any]:
        script = self.answers[partition]
        times = sum(partition in each for each in self.asked)
        code, future = script[min(times, len(script)) - 1], Future[Any]()
        if code is None:
            future.set_result(SimpleNamespace(offset=offset))
        else:
            future.set_exception(KafkaException(KafkaError(code)))
        return future


class Admin(KafkaAdmin):
    def __init__(self, script: Scripted) -> None:
        super().__init__(KafkaConfig("broker:9092", request_timeout=timedelta(milliseconds=400)))
        self._script = script

    def _admin(self) -> AdminClient:
        return cast(AdminClient, self._script)


def survey(**answers: Sequence[int | None]) -> tuple[PartitionWatermarks, Scripted]:
    script = Scripted({1: answers["one"], 2: answers["two"]})
    return Admin(script).available_watermarks([ONE, TWO]), script


def test_where_all_answer_nobody_is_silent() -> None:
    found, _ = survey(one=[None], two=[None])
    assert found == PartitionWatermarks({ONE: Watermarks(3, 7, 9), TWO: Watermarks(3, 7, 9)}, {})


def test_a_partition_without_leader_is_named_and_the_others_have_their_watermarks() -> None:
    found, script = survey(one=[AWAY], two=[None])
    assert (dict(found.watermarks), list(found.unavailable)) == ({TWO: Watermarks(3, 7, 9)}, [ONE])
    assert str(found.unavailable[ONE]).startswith("Kafka at broker:9092: reading watermarks of ProductCreated@2/1: ")
    assert "LEADER_NOT_AVAILABLE" in str(found.unavailable[ONE])
    assert script.asked[0] == (1, 2)
    assert set(script.asked[1:-2]) == {(1,)}, "asked again for a while, and only who did not answer"
    assert script.asked[-2:] == [(2,), (2,)], "and not for the other offsets"


@pytest.mark.parametrize("code", [TIMED_OUT, AWAY])
def test_a_leader_that_is_lost_between_two_questions_makes_its_partition_silent(code: int) -> None:
    found, _ = survey(one=[None, code], two=[None])
    assert (list(found.watermarks), list(found.unavailable)) == ([TWO], [ONE])


def test_a_leader_that_moves_is_asked_again() -> None:
    found, _ = survey(one=[KafkaError.NOT_LEADER_FOR_PARTITION, None], two=[None])
    assert found.watermarks.keys() == {ONE, TWO}


def test_where_nobody_answers_that_is_raised() -> None:
    with pytest.raises(Unavailable, match="LEADER_NOT_AVAILABLE"):
        survey(one=[AWAY], two=[AWAY])


def test_a_refusal_is_raised_whoever_else_answers() -> None:
    with pytest.raises(AccessDenied):
        survey(one=[DENIED], two=[None])


def test_who_wants_all_watermarks_gets_the_fault() -> None:
    with pytest.raises(Unavailable, match="ProductCreated@2/1"):
        Admin(Scripted({1: [AWAY], 2: [None]})).watermarks([ONE, TWO])
