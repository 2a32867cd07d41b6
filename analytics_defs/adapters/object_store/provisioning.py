"""What the platform stands on, one class a technology: making it (`analytics setup`) and proving it (`analytics check`).

Permissions to write are proven by requests that the store refuses, or by an object of our own that is removed again: nothing that is
there changes, and nothing stays.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import TableSchema, create_tables, table_mismatches
from analytics_defs.adapters.kafka.admin import KafkaAdmin
from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.kafka.topic_config import TopicConfig, TopicSpec
from analytics_defs.adapters.object_store.bucket import bucket_exists, create_bucket
from analytics_defs.adapters.object_store.client import ObjectStoreConfig
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import AccessDenied, InconsistentState, ResourceMissing
from analytics_defs.ports import StoredObject

ProvisioningCheck = tuple[str, Callable[[], str]]

PROBE_PARTITION: Final = 2_147_483_647
"""A partition that no topic has: setting a group's offset there is refused, after the group's permission was looked at."""


@dataclass(frozen=True, slots=True)
class TopicRequirements:
    """The topics to read, and how to make those that are missing."""

    names: tuple[str, ...]
    max_event_bytes: int
    partitions: int = 4
    replication: int = -1
    """-1: the broker's default."""
    create: bool = True


class KafkaProvisioner:
    """Topics, and the group."""

    name = "Kafka"

    def __init__(self, config: KafkaConfig, wanted: TopicRequirements) -> None:
        self._config = config
        self._wanted = wanted
        self._admin = KafkaAdmin(config)
        self._log = KafkaEventLog(config)

    def close(self) -> None:
        self._admin.close()
        self._log.close()

    def provision(self) -> list[str]:
        """A topic that may not be created is no fault: it is said, and read from its start once somebody made it."""
        missing = self._missing()
        if not missing:
            return []
        if not self._wanted.create:
            return [f"topic {name}: not there, and not to be created" for name in missing]
        specs = [TopicSpec(name, self._wanted.partitions, self._wanted.replication) for name in missing]
        try:
            return [f"topic {name}: created, {self._wanted.partitions} partitions" for name in self._admin.create_topics(specs)]
        except AccessDenied as fault:
            return [f"topics {', '.join(missing)}: not there, and not allowed to be created from here ({fault})"]

    def checks(self) -> list[ProvisioningCheck]:
        return [
            ("topics", self._topics),
            ("settings of topics", self._settings),
            ("reading records", self._reading),
            ("the group's offsets", self._group),
        ]

    def _missing(self) -> list[str]:
        found = self._log.topics(self._wanted.names)
        return [name for name in self._wanted.names if name not in found]

    def _topics(self) -> str:
        found = self._log.topics(self._wanted.names)
        if missing := [name for name in self._wanted.names if name not in found]:
            raise ResourceMissing(
                f"Kafka at {self._config.brokers}: no topic {', '.join(missing)}. `analytics setup` creates it, or correct KAFKA_TOPICS."
            )
        return ", ".join(f"{topic.name} ({len(topic.partitions)} partitions)" for topic in found.values())

    def _settings(self) -> str:
        """Says what a person may want to know; none of it keeps the platform from working."""
        if any(topic.topic_id is None for topic in self._log.topics(self._wanted.names).values()):
            return "the broker does not tell them"
        shapes = self._admin.describe(self._wanted.names)
        return "; ".join(f"{name}: {_shape(shape, self._wanted.max_event_bytes)}" for name, shape in shapes.items())

    def _reading(self) -> str:
        partitions = self._partitions()
        marks = self._log.watermarks(partitions)
        oldest = [
            Range(each, marks[each].log_start_offset, marks[each].log_start_offset + 1)
            for each in partitions
            if marks[each].last_stable_offset > marks[each].log_start_offset
        ]
        reading = self._log.read(oldest, lambda _: True) if oldest else None
        for fault in reading.errors.values() if reading else ():
            raise fault
        return f"{len(reading.records) if reading else 0} records of {len(partitions)} partitions; those partitions without one are empty"

    def _group(self) -> str:
        offsets = self._log.committed(self._partitions())
        try:
            self._log.commit({TopicPartition(self._wanted.names[0], 0, PROBE_PARTITION): 0})
        except ResourceMissing:
            pass  # refused for the partition: the group's permission was looked at before
        known = sum(offset is not None for offset in offsets.values())
        return f"group {self._config.group_id}: may be read and set; {known} of {len(offsets)} partitions have an offset"

    def _partitions(self) -> list[TopicPartition]:
        found = self._log.topics(self._wanted.names)
        return [TopicPartition(topic.name, 0, number) for topic in found.values() for number in topic.partitions]


def _shape(shape: TopicConfig, max_event_bytes: int) -> str:
    policy = "unknown cleanup" if shape.cleanup_policy is None else "+".join(sorted(shape.cleanup_policy))
    retention = (
        "" if shape.retention is None else f", kept {shape.retention.days} days" if shape.retention.days < 36_500 else ", kept for ever"
    )
    larger = shape.max_message_bytes is not None and shape.max_message_bytes > max_event_bytes
    note = f", takes records over MAX_EVENT_BYTES={max_event_bytes}: those become dead letters" if larger else ""
    return f"{policy}{retention}, replication {shape.replication}{note}"


class DynamoProvisioner:
    """The three tables."""

    name = "DynamoDB"

    def __init__(self, dynamo: DynamoClient, tables: Sequence[TableSchema]) -> None:
        self._dynamo = dynamo
        self._tables = tables

    def close(self) -> None:
        self._dynamo.close()

    def provision(self) -> list[str]:
        return create_tables(self._dynamo, self._tables)

    def checks(self) -> list[ProvisioningCheck]:
        return [("tables", self._shapes), ("reading items", self._reading), ("writing items", self._writing)]

    def _shapes(self) -> str:
        if faults := table_mismatches(self._dynamo, self._tables):
            raise ResourceMissing("\n".join(faults))
        return ", ".join(table.name for table in self._tables)

    def _reading(self) -> str:
        for table in self._tables:
            self._dynamo.get(table.name, _nobody(table))
            self._dynamo.get_many(table.name, [_nobody(table)])
            if len(table.keys) > 1:
                list(self._dynamo.query(table.name, "pk = :pk", {":pk": "~check"}))
        return "get, batch get and query"

    def _writing(self) -> str:
        """Conditions that never hold: the permission is looked at before them."""
        for table in self._tables:
            actions = [
                {"Put": {"TableName": table.name, "Item": _nobody(table, "put"), **_never(table)}},
                {
                    "Update": {
                        "TableName": table.name,
                        "Key": _nobody(table, "update"),
                        "UpdateExpression": "SET probe = :probe",
                        **_never(table, True),
                    }
                },
                {"Delete": {"TableName": table.name, "Key": _nobody(table, "delete"), **_never(table)}},
            ]
            refused = self._dynamo.transact(actions)
            if len(refused) != len(actions):
                raise InconsistentState(
                    f"table {table.name} at {self._dynamo.config.describe_endpoint}: a write went through although its condition cannot hold"
                )
        return "conditional put, update and delete in transactions"


def _nobody(table: TableSchema, what: str = "read") -> dict[str, dict[str, str]]:
    return {name: {"S": f"~check {what}"} for name in table.keys}


def _never(table: TableSchema, probe: bool = False) -> dict[str, object]:
    key = table.keys[0]
    values = {"ExpressionAttributeValues": {":probe": {"S": "probe"}}} if probe else {}
    return {"ConditionExpression": f"attribute_exists({key}) AND attribute_not_exists({key})", **values}


class BucketProvisioner:
    """The archive's bucket."""

    name = "object store"

    def __init__(self, config: ObjectStoreConfig) -> None:
        self._config = config
        self._archive = S3ObjectStore(config)
        self._probe = StoredObject(staging_key(f"check-{uuid.uuid4().hex}"), b"probe", "text/plain", {"by": "analytics check"})

    def close(self) -> None:
        self._archive.close()

    def provision(self) -> list[str]:
        return [f"bucket {self._config.bucket}: created"] if create_bucket(self._config) else []

    def checks(self) -> list[ProvisioningCheck]:
        return [
            ("bucket", self._bucket),
            ("writing, reading, listing and deleting objects", self._round),
            ("conditional writes", self._conditional),
            ("small objects", self._tars),
        ]

    def _tars(self) -> str:
        fault = self._archive.snowball_unavailable_reason()
        return f"one by one: {fault}" if fault else "in tars, which the store unpacks"

    def _bucket(self) -> str:
        if not bucket_exists(self._config):
            raise ResourceMissing(f"{self._config.endpoint or 'Amazon S3'}: no bucket {self._config.bucket}. `analytics setup` creates it.")
        return self._config.bucket

    def _round(self) -> str:
        self._archive.put([self._probe])
        try:
            if self._archive.get(self._probe.key) != self._probe.body or self._probe.key not in self._archive.list_keys(staging_key("")):
                raise InconsistentState(f"bucket {self._config.bucket}: {self._probe.key} was written, and is not there as it was written")
        finally:
            self._archive.delete([self._probe.key])
        return f"{self._probe.key} was there, and is gone"

    def _conditional(self) -> str:
        """The batch's staging file decides by it: a store that ignores `If-None-Match` must not be used."""
        first, second = self._probe, StoredObject(self._probe.key, b"another", "text/plain", {})
        held = self._archive.put_if_absent(first)
        try:
            if (held, self._archive.put_if_absent(second)) != (first.body, first.body):
                raise InconsistentState(
                    f"{self._config.endpoint or 'Amazon S3'}, bucket {self._config.bucket}: the store writes over an object although "
                    "`If-None-Match: *` forbids it. Use a newer version of it, or another store."
                )
        finally:
            self._archive.delete([first.key])
        return "`If-None-Match` is kept to"
