"""The real servers keep port and data after a crash. The fault tests depend on it."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from analytics_defs.devstack import servers
from analytics_defs.errors import StartupFailed

pytestmark = pytest.mark.real


def test_kafka_keeps_its_port_and_records_after_a_kill(tmp_path: Path) -> None:
    with servers.kafka(tmp_path / "kafka") as kafka:
        brokers: dict[str, str | int | float | bool] = {"bootstrap.servers": kafka.address}
        admin = AdminClient(brokers)
        admin.create_topics([NewTopic("topic", 1, 1)])["topic"].result(20)
        producer = Producer(brokers)
        producer.produce("topic", b"value")
        assert producer.flush(20) == 0
        kafka.kill()
        kafka.start()
        consumer = Consumer(brokers | {"group.id": "g", "auto.offset.reset": "earliest"})
        consumer.subscribe(["topic"])
        message = consumer.poll(30)
        assert message is not None
        assert message.value() == b"value"
        consumer.close()


def test_a_durable_dynamodb_keeps_its_port_and_tables_after_a_kill(tmp_path: Path) -> None:
    with servers.durable_dynamodb(tmp_path / "dynamodb") as dynamodb:
        session = boto3.Session("fake", "fake", region_name="us-east-1")
        client = session.client("dynamodb", endpoint_url=dynamodb.settings["DYNAMO_ENDPOINT"])
        client.create_table(
            TableName="Table",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        dynamodb.kill()
        dynamodb.start()
        assert client.list_tables()["TableNames"] == ["Table"]


def test_minio_keeps_its_port_and_objects_after_a_kill_and_resumes_after_a_freeze(tmp_path: Path) -> None:
    with servers.minio(tmp_path / "minio") as minio:
        session = boto3.Session("minio", "minio123", region_name="us-east-1")
        client = session.client("s3", endpoint_url=minio.settings["MINIO_ENDPOINT"])
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="key", Body=b"value")
        minio.kill()
        minio.start()
        minio.freeze()
        assert not minio.answers(minio.port)
        minio.thaw()
        assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"value"


def test_a_running_server_is_not_started_again(tmp_path: Path) -> None:
    with servers.minio(tmp_path / "minio") as minio, pytest.raises(StartupFailed, match="already running"):
        minio.launch()
