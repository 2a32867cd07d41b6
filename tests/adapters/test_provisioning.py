"""What setup makes and check proves, at the stores themselves. Nothing may stay behind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from analytics_defs.adapters.dynamodb.provisioning import DynamoProvisioner
from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.adapters.kafka.provisioning import PROBE_PARTITION, KafkaProvisioner, TopicRequirements
from analytics_defs.adapters.kafka.topic_config import TopicSpec
from analytics_defs.adapters.memory import MemoryEventLog
from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.adapters.object_store.provisioning import BucketProvisioner
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import AccessDenied, InconsistentState, ResourceMissing, Unavailable
from analytics_defs.flows.setup.preflight import Checkable, CheckResult, run_preflight
from tests.adapters.kafka.scripted_kafka import broker_that_is_down
from tests.adapters.object_store.scripted_s3 import Answer, Request, scripted_s3
from tests.contracts.dynamodb_fixtures import DYNAMOS
from tests.contracts.event_log_fixtures import MockCluster, Written, real_broker, real_brokers
from tests.contracts.object_store_fixtures import moto_endpoint, s3_client
from tests.devstack.waiting import until

KEYS = ObjectStoreKeys("fake", "fake")
"""Of a store that takes any."""


def failing(ground: Checkable) -> dict[str, CheckResult]:
    return {proof.check: proof for proof in run_preflight([ground]) if not proof.passed}


def wanted(*topics: str) -> TopicRequirements:
    return TopicRequirements(topics, max_event_bytes=1_000)


@pytest.mark.parametrize("dynamo", ["moto", pytest.param("real", marks=pytest.mark.real)])
def test_tables_are_made_and_proven_and_no_item_stays(dynamo: str) -> None:
    with DYNAMOS[dynamo]() as found:
        ground = DynamoProvisioner(found.dynamo, found.tables)
        assert ground.provision() == []
        assert failing(ground) == {}
        for table in found.tables:
            assert found.dynamo.call("scan", [table.name], TableName=table.name)["Count"] == 0


def test_tables_that_are_not_there_are_named_and_nothing_more_is_asked() -> None:
    with DYNAMOS["moto"]() as found:
        absent = [replace(table, name=f"{table.name}-absent") for table in found.tables]
        [(question, proof)] = failing(DynamoProvisioner(found.dynamo, absent)).items()
        assert question == "tables"
        assert isinstance(proof.fault, ResourceMissing)
        assert all(table.name in str(proof.fault) for table in absent)


def test_the_bucket_is_made_and_proven_and_no_object_stays() -> None:
    with moto_endpoint() as endpoint:
        config = ObjectStoreConfig(f"ground-{uuid.uuid4().hex[:12]}", endpoint, keys=KEYS)
        ground = BucketProvisioner(config)
        assert isinstance(failing(ground)["bucket"].fault, ResourceMissing)
        assert ([*ground.provision()], ground.provision()) == ([f"bucket {config.bucket}: created"], [])
        assert failing(ground) == {}
        ground.close()
        with s3_client(config) as s3:
            assert s3.list_objects_v2(Bucket=config.bucket)["KeyCount"] == 0


@dataclass
class Forgetful:
    """A store that does not know `If-None-Match`, and refuses the methods it is told to."""

    denied: frozenset[str] = frozenset()
    objects: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, request: Request) -> Answer:
        key = request.path.partition("/our-bucket/")[2]
        if request.method in self.denied:
            return Answer.error(403, "AccessDenied")
        if request.method == "PUT":
            self.objects[key] = request.body
        elif request.method == "POST":
            deleted = "".join(f"<Deleted><Key>{each}</Key></Deleted>" for each in self.objects)
            self.objects.clear()
            return Answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        elif request.method == "GET":
            return self._found(key) if key else self._listed()
        return Answer()

    def _found(self, key: str) -> Answer:
        return Answer(200, self.objects[key]) if key in self.objects else Answer.error(404, "NoSuchKey")

    def _listed(self) -> Answer:
        about = "<LastModified>2024-01-15T10:30:00.000Z</LastModified><Size>5</Size><ETag>0</ETag>"
        found = "".join(f"<Contents><Key>{key}</Key>{about}</Contents>" for key in self.objects)
        return Answer(200, f"<ListBucketResult>{found}</ListBucketResult>".encode())


@contextmanager
def bucket_on(store: Forgetful) -> Iterator[BucketProvisioner]:
    with scripted_s3(store) as s3:
        config = ObjectStoreConfig("our-bucket", s3.endpoint, keys=KEYS, max_retries=0, request_timeout=timedelta(seconds=5))
        ground = BucketProvisioner(config)
        try:
            yield ground
        finally:
            ground.close()


def test_a_store_that_writes_over_what_it_must_not_is_found_out() -> None:
    store = Forgetful()
    with bucket_on(store) as ground:
        [(question, proof)] = failing(ground).items()
    assert question == "conditional writes"
    assert isinstance(proof.fault, InconsistentState)
    assert store.objects == {}


def test_a_bucket_that_may_not_be_written_is_denied() -> None:
    with bucket_on(Forgetful(denied=frozenset({"PUT"}))) as ground:
        found = failing(ground)
    assert [type(proof.fault) for proof in found.values()] == [AccessDenied, AccessDenied]


def test_a_bucket_that_may_not_be_deleted_from_is_denied() -> None:
    with bucket_on(Forgetful(denied=frozenset({"POST"}))) as ground:
        assert isinstance(failing(ground)["writing, reading, listing and deleting objects"].fault, AccessDenied)


def test_a_broker_that_is_down_is_asked_once() -> None:
    with broker_that_is_down() as address:
        ground = KafkaProvisioner(KafkaConfig(brokers=address, request_timeout=timedelta(seconds=1)), wanted("t"))
        [(question, proof)] = failing(ground).items()
        assert (question, type(proof.fault)) == ("topics", Unavailable)


class NotAllowed:
    def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        raise AccessDenied(f"{topics[0].name}: not by you")


def test_topics_that_may_not_be_created_are_named_and_no_failure() -> None:
    ground = KafkaProvisioner(KafkaConfig(), wanted("one", "two"))
    ground._log, ground._admin = MemoryEventLog(), NotAllowed()  # type: ignore[assignment]
    assert ground.provision() == ["topics one, two: not there, and not allowed to be created from here (one: not by you)"]


@pytest.mark.real
def test_topics_are_made_once_and_proven_and_the_group_stays_as_it_was() -> None:
    with real_broker() as broker:
        names = [f"ground-{uuid.uuid4().hex[:12]}" for _ in range(2)]
        ground = KafkaProvisioner(KafkaConfig(brokers=real_brokers(), group_id=broker.group), replace(wanted(*names), partitions=3))
        assert str(failing(ground)["topics"].fault).count("ground-") == 2
        assert KafkaProvisioner(KafkaConfig(brokers=real_brokers()), replace(wanted(*names), create=False)).provision() == [
            f"topic {name}: not there, and not to be created" for name in names
        ]
        for name in names:
            broker.adopt(name)
        assert ([*ground.provision()], ground.provision()) == ([f"topic {name}: created, 3 partitions" for name in names], [])
        until(lambda: "topics" not in failing(ground))
        broker.write(names[0], 1, [Written(b"value")])
        assert failing(ground) == {}
        partitions = [TopicPartition(name, 0, number) for name in names for number in (*range(3), PROBE_PARTITION)]
        assert set(broker.port.committed(partitions).values()) == {None}
        ground.close()


def test_the_embedded_broker_of_make_dev_passes() -> None:
    cluster = MockCluster()
    topic = cluster.create_topic()
    cluster.write(topic, 0, [Written(b"value")])
    ground = KafkaProvisioner(KafkaConfig(brokers=cluster.brokers, group_id="check", request_timeout=timedelta(seconds=5)), wanted(topic))
    try:
        assert ground.provision() == []
        assert failing(ground) == {}
    finally:
        ground.close()
        cluster.close()
