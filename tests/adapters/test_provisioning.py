"""Setup and checks on the stores themselves. No test data may remain."""

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
from analytics_defs.errors import AccessDenied, ResourceNotReady, Unavailable
from analytics_defs.flows.setup.preflight import CheckResult, run_preflight
from analytics_defs.ports import Checkable
from tests.adapters.kafka.scripted_kafka import broker_that_is_down
from tests.adapters.object_store.scripted_s3 import Answer, Request, scripted_s3
from tests.contracts.dynamodb_fixtures import DYNAMOS
from tests.contracts.event_log_fixtures import MockCluster, Written, real_broker, real_brokers
from tests.contracts.object_store_fixtures import moto_endpoint, s3_client
from tests.devstack.waiting import until

KEYS = ObjectStoreKeys("fake", "fake")
"""Keys for a store that accepts any."""


def failed_checks(provisioner: Checkable) -> dict[str, CheckResult]:
    return {result.check: result for result in run_preflight([provisioner]) if not result.passed}


def requirements(*topics: str) -> TopicRequirements:
    return TopicRequirements(topics, max_event_bytes=1_000)


@pytest.mark.parametrize("dynamo", ["moto", pytest.param("real", marks=pytest.mark.real)])
def test_created_tables_pass_the_checks_and_contain_no_item(dynamo: str) -> None:
    with DYNAMOS[dynamo]() as fixture:
        provisioner = DynamoProvisioner(fixture.dynamo, fixture.tables)
        assert provisioner.provision() == []
        assert failed_checks(provisioner) == {}
        for table in fixture.tables:
            assert fixture.dynamo.call("scan", [table.name], TableName=table.name)["Count"] == 0


def test_missing_tables_are_named_and_end_the_checks() -> None:
    with DYNAMOS["moto"]() as fixture:
        missing = [replace(table, name=f"{table.name}-absent") for table in fixture.tables]
        [(check, result)] = failed_checks(DynamoProvisioner(fixture.dynamo, missing)).items()
        assert check == "tables"
        assert isinstance(result.error, ResourceNotReady)
        assert all(table.name in str(result.error) for table in missing)


def test_a_created_bucket_passes_the_checks_and_contains_no_object() -> None:
    with moto_endpoint() as endpoint:
        config = ObjectStoreConfig(f"provisioned-{uuid.uuid4().hex[:12]}", endpoint, keys=KEYS)
        provisioner = BucketProvisioner(config)
        assert isinstance(failed_checks(provisioner)["bucket"].error, ResourceNotReady)
        assert ([*provisioner.provision()], provisioner.provision()) == ([f"bucket {config.bucket}: created"], [])
        assert failed_checks(provisioner) == {}
        provisioner.close()
        with s3_client(config) as s3:
            assert s3.list_objects_v2(Bucket=config.bucket)["KeyCount"] == 0


@dataclass
class UnconditionalStore:
    """Scripted store that ignores `If-Match`, and `If-None-Match` by default, and denies some methods."""

    denied: frozenset[str] = frozenset()
    honors_if_none_match: bool = False
    objects: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, request: Request) -> Answer:
        key = request.path.partition("/test-bucket/")[2]
        if request.method in self.denied:
            return Answer.error(403, "AccessDenied")
        if request.method == "PUT":
            if self.honors_if_none_match and "if-none-match" in request.headers and key in self.objects:
                return Answer.error(412, "PreconditionFailed")
            self.objects[key] = request.body
        elif request.method == "POST":
            deleted = "".join(f"<Deleted><Key>{deleted_key}</Key></Deleted>" for deleted_key in self.objects)
            self.objects.clear()
            return Answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        elif request.method == "GET":
            return self._get(key) if key else self._list()
        return Answer()

    def _get(self, key: str) -> Answer:
        return Answer(200, self.objects[key]) if key in self.objects else Answer.error(404, "NoSuchKey")

    def _list(self) -> Answer:
        properties = "<LastModified>2024-01-15T10:30:00.000Z</LastModified><Size>5</Size><ETag>0</ETag>"
        contents = "".join(f"<Contents><Key>{key}</Key>{properties}</Contents>" for key in self.objects)
        return Answer(200, f"<ListBucketResult>{contents}</ListBucketResult>".encode())


@contextmanager
def bucket_on(store: UnconditionalStore) -> Iterator[BucketProvisioner]:
    with scripted_s3(store) as s3:
        config = ObjectStoreConfig("test-bucket", s3.endpoint, keys=KEYS, max_retries=0, request_timeout=timedelta(seconds=5))
        provisioner = BucketProvisioner(config)
        try:
            yield provisioner
        finally:
            provisioner.close()


@pytest.mark.parametrize(("honors_if_none_match", "ignored"), [(False, "`If-None-Match: *`"), (True, "`If-Match`")])
def test_a_store_that_ignores_a_condition_fails_the_check(honors_if_none_match: bool, ignored: str) -> None:
    store = UnconditionalStore(honors_if_none_match=honors_if_none_match)
    with bucket_on(store) as provisioner:
        [(check, result)] = failed_checks(provisioner).items()
    assert check == "conditional writes"
    assert isinstance(result.error, ResourceNotReady)
    assert f"bucket test-bucket: the store overwrites an object although {ignored} forbids it" in str(result.error)
    assert store.objects == {}


def test_a_missing_write_permission_on_the_bucket_is_denied() -> None:
    with bucket_on(UnconditionalStore(denied=frozenset({"PUT"}))) as provisioner:
        failed = failed_checks(provisioner)
    assert [type(result.error) for result in failed.values()] == [AccessDenied, AccessDenied]


def test_a_missing_delete_permission_on_the_bucket_is_denied() -> None:
    with bucket_on(UnconditionalStore(denied=frozenset({"POST"}))) as provisioner:
        assert isinstance(failed_checks(provisioner)["writing, reading, listing and deleting objects"].error, AccessDenied)


def test_a_broker_that_is_down_ends_the_checks() -> None:
    with broker_that_is_down() as address:
        provisioner = KafkaProvisioner(KafkaConfig(brokers=address, request_timeout=timedelta(seconds=1)), requirements("t"))
        [(check, result)] = failed_checks(provisioner).items()
        assert (check, type(result.error)) == ("topics", Unavailable)


class DeniedAdmin:
    def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        raise AccessDenied(f"{topics[0].name}: not permitted")


def test_a_missing_permission_to_create_topics_is_reported_and_no_error() -> None:
    provisioner = KafkaProvisioner(KafkaConfig(), requirements("one", "two"))
    provisioner._log, provisioner._admin = MemoryEventLog(), DeniedAdmin()  # type: ignore[assignment]
    assert provisioner.provision() == ["topics one, two: missing, and no permission to create them (one: not permitted)"]


@pytest.mark.real
def test_created_topics_pass_the_checks_and_the_group_is_unchanged() -> None:
    with real_broker() as broker:
        names = [f"provisioned-{uuid.uuid4().hex[:12]}" for _ in range(2)]
        provisioner = KafkaProvisioner(
            KafkaConfig(brokers=real_brokers(), group_id=broker.group), replace(requirements(*names), partitions=3)
        )
        assert str(failed_checks(provisioner)["topics"].error).count("provisioned-") == 2
        assert KafkaProvisioner(KafkaConfig(brokers=real_brokers()), replace(requirements(*names), create=False)).provision() == [
            f"topic {name}: missing, and creation is disabled" for name in names
        ]
        for name in names:
            broker.adopt(name)
        assert ([*provisioner.provision()], provisioner.provision()) == ([f"topic {name}: created, 3 partitions" for name in names], [])
        until(lambda: "topics" not in failed_checks(provisioner))
        broker.write(names[0], 1, [Written(b"value")])
        assert failed_checks(provisioner) == {}
        partitions = [TopicPartition(name, 0, number) for name in names for number in (*range(3), PROBE_PARTITION)]
        assert set(broker.port.committed(partitions).values()) == {None}
        provisioner.close()


def test_the_embedded_broker_of_make_dev_passes_the_checks() -> None:
    cluster = MockCluster()
    topic = cluster.create_topic()
    cluster.write(topic, 0, [Written(b"value")])
    provisioner = KafkaProvisioner(
        KafkaConfig(brokers=cluster.brokers, group_id="check", request_timeout=timedelta(seconds=5)), requirements(topic)
    )
    try:
        assert provisioner.provision() == []
        assert failed_checks(provisioner) == {}
    finally:
        provisioner.close()
        cluster.close()
