"""The flows of each role on a recorded cloud, with the crashes, duplicates and damage that lead to rare requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.compute_log_manager import ComputeIOType

from analytics_defs import wiring
from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.provisioning import DynamoProvisioner
from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import expected_tables
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.adapters.object_store.provisioning import BucketProvisioner
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.adapters.runtime.system import ThreadTaskPool
from analytics_defs.config import Settings
from analytics_defs.core.counter_adjustments import CounterItem
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ledger import Lease
from analytics_defs.core.offsets import Range
from analytics_defs.core.repair import HourRange
from analytics_defs.core.storage.object_keys import part_key
from analytics_defs.defs.operations import purge_runs
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.counters import apply_adjustments, compare_counters
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.audit.ledger_chain import audit_chain
from analytics_defs.flows.audit.recent_hours import compare_stores
from analytics_defs.flows.health_probes import HealthClients, probe_dynamodb, probe_object_store, read_ledger_statistics
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import restore_hour
from analytics_defs.flows.hours.statistics import compute_daily_stats, compute_hourly_stats, compute_product_activity
from analytics_defs.flows.ingest.accept_topic import accept_recreated_topic
from analytics_defs.flows.redrive import DeadLetterFilter, list_dead_letters, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import RepairContext, repair_range
from analytics_defs.flows.setup.platform_identity import verify_stores
from analytics_defs.flows.setup.preflight import run_preflight
from analytics_defs.flows.setup.provision import provision
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import Ports, StoredObject
from tests.contracts.ledger_fixtures import remove_entries
from tests.contracts.object_store_fixtures import s3_client
from tests.defs.memory_platform import MemoryPlatform
from tests.deploy.aws import BUCKET, Cloud
from tests.flows.audit.test_counters_in_dynamodb import corrupt
from tests.flows.hours.test_statistics import BENCH
from tests.proof.clocks import ScriptedClock
from tests.proof.interceptors import Call, Crashed, failing, intercept
from tests.proof.world import HOUR, RULES, TOPIC, World, event, ingest_options, legacy_event

STRICT = ValidationRules(max_event_bytes=300)
BEFORE = "2024-01-15T09"
ALL = HourRange("2024-01-15T09", "2024-01-15T13")
DEEP: Any = json.loads("[" * 40 + "]" * 40)
"""DynamoDB allows 32 levels, so the item is a pointer to the JSON object."""
SETTINGS = {"archive_bucket_name": BUCKET, "kafka_topics": (TOPIC,), "minio_snowball": "off"}
"""Tars are off: Amazon S3 is never probed for them, but the custom endpoint here would be."""


class RecordedStore:
    """A store that records the names of its called methods in the cloud."""

    def __init__(self, store: object, name: str, cloud: Cloud) -> None:
        self._store, self._name, self._cloud = store, name, cloud

    def __getattr__(self, method: str) -> Any:
        if not method.startswith("_"):
            self._cloud.called.add(f"{self._name}.{method}")
        return getattr(self._store, method)


@dataclass
class Scene:
    """A platform with the production adapters on the cloud, and Kafka in memory."""

    cloud: Cloud
    folder: Path
    closing: list[Callable[[], None]] = field(default_factory=list)

    @cached_property
    def settings(self) -> Settings:
        return Settings(dynamo_endpoint=self.cloud.endpoint, minio_endpoint=self.cloud.endpoint, **SETTINGS)  # type: ignore[arg-type]

    @cached_property
    def provisioners(self) -> tuple[DynamoProvisioner, BucketProvisioner]:
        tables = expected_tables(self.settings.recent_events_table_name, self.tables)
        bucket = BucketProvisioner(wiring.object_store_config(self.settings))
        self.closing.append(bucket.close)
        return DynamoProvisioner(self.dynamo, tables), bucket

    @cached_property
    def tables(self) -> LedgerTables:
        return LedgerTables(self.settings.ledger_table_name, self.settings.aggregates_table_name)

    @cached_property
    def dynamo(self) -> DynamoClient:
        client = DynamoClient(wiring.dynamo_config(self.settings))
        self.closing.append(client.close)
        return client

    @cached_property
    def world(self) -> World:
        """Return a platform with empty stores and one topic with two partitions."""
        object_store = S3ObjectStore(wiring.object_store_config(self.settings))
        self.closing.append(object_store.close)
        recent_events = DynamoRecentEvents(self.dynamo, self.settings.recent_events_table_name)
        world_class: Any = World
        ledger = DynamoLedger(self.dynamo, self.tables)
        stores = {"recent_events": recent_events, "object_store": object_store, "ledger": ledger}
        world: World = world_class(**{name: RecordedStore(store, name, self.cloud) for name, store in stores.items()})
        world.create(partitions=2)
        return world

    @property
    def ports(self) -> Ports:
        """Return the ports with a thread pool, as in production."""
        return replace(self.world.ports, task_pool=ThreadTaskPool(4))

    @cached_property
    def platform(self) -> MemoryPlatform:
        """Return the resource of the Dagster definitions, on the same stores."""
        platform = MemoryPlatform()
        platform.log, platform.clock = self.world.event_log, ScriptedClock(self.world.clock.now())
        platform._ports, platform._settings = replace(self.world.ports, clock=platform.clock), self.settings
        return platform

    def ingest_history(self) -> None:
        """Ingest two hours: a legacy event, duplicates, dead letters, a tombstone, and an item that is a pointer."""
        world = self.world
        world.produce(event("a"), event("b", f"{BEFORE}:59:59Z"), b'{"id": NaN}', None, event("big", padding="." * 400))
        world.produce(event("a", payload="other"), legacy_event(), event("deep", padding=DEEP), partition=1)
        world.settle(ingest_options(validation_rules=ValidationRules(max_event_bytes=300)))
        world.produce(event("c"), event("b", payload="again"), event("d"), event("deep", padding=DEEP))
        world.settle(ingest_options(limits=BatchLimits(max_records=2)))

    def close(self) -> None:
        for close in self.closing:
            close()


@contextmanager
def scene(cloud: Cloud, folder: Path) -> Iterator[Scene]:
    """Create tables and bucket, and yield the platform."""
    scene = Scene(cloud, folder)
    try:
        assert all(result.error is None for result in provision(scene.provisioners))
        yield scene
    finally:
        scene.close()


def setup(scene: Scene) -> None:
    """Create everything, then run the setup again when everything exists."""
    with scene.cloud.unrecorded():
        for table in expected_tables("RecentEvents", scene.tables):
            scene.dynamo.call("delete_table", [], TableName=table.name)
        with s3_client(wiring.object_store_config(scene.settings)) as s3:
            s3.delete_bucket(Bucket=BUCKET)
    for _ in range(2):
        assert all(result.error is None for result in provision(scene.provisioners))


def micro_batches(scene: Scene) -> None:
    world = scene.world
    scene.ingest_history()
    with dg.DagsterInstance.ephemeral() as instance:
        for name in ("e", "f"):
            world.produce(event(name), event(name))
            assert scene.platform.run(instance).success
    _crash_at_every_call(world)
    world.produce(event("closed by another"))
    world.run(ports=intercept(world.ports, _closed_by_another))
    world.clock.advance(timedelta(days=30))
    world.produce(event("a", payload="after its item expired"))
    world.settle()
    assert audit_offsets(world.ports).unaccounted == 0


def _crash_at_every_call(world: World) -> None:
    """Crash an executor at each of its calls, before or after the effect. Each time another executor finishes the batch."""
    number = 0
    while True:
        world.produce(event(f"x{number}"), event("a", payload=f"{number}"), b"{")
        try:
            world.run(ports=intercept(world.ports, failing(number, number % 2 == 0, lambda _: Crashed())))
        except Crashed:
            world.settle()
            number += 1
            continue
        break
    assert number > 10


def _closed_by_another(call: Call, perform: Callable[[], Any]) -> Any:
    """Close each batch twice, as if another executor closed it a moment earlier."""
    if call.method == "close_batch":
        assert perform()
    return perform()


def hours(scene: Scene) -> None:
    world, ports = scene.world, scene.ports
    with scene.cloud.unrecorded():
        scene.ingest_history()
        assert redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive")).stored
    verify_stores(ports)
    for hour in (BEFORE, HOUR):
        compact_hour(hour, ports, memory_workspace)
        compute_hourly_stats(hour, ports, BENCH)
    compute_daily_stats(HOUR[:10], ports, BENCH)
    compute_product_activity(HOUR[:10], ports, BENCH)
    with scene.cloud.unrecorded():
        world.produce(event("late"), event("later"))
        world.settle()
        world.object_store.delete([part_key(HOUR, batch) for batch in world.ledger.batches_of_hour(HOUR)])
        for item in ("a", "d"):
            scene.dynamo.delete("RecentEvents", {"id": {"S": item}})
    assert compact_hour(HOUR, ports, memory_workspace).rebuilt
    restore_hour(HOUR, ports, BENCH)
    compare_stores(ports)
    _repair(scene)
    aborted_uploads(scene)


def _repair(scene: Scene) -> None:
    """Delete each folder and repair it from Kafka. Then delete from Kafka, and repair from the other stores."""
    world, context = scene.world, RepairContext(scene.ports, BENCH, RULES)
    for folder in ("events/", "parquet/", "dead-letters/", "duplicates/"):
        _delete_folder(scene, folder)
        assert repair_range(ALL, context).changed
    with scene.cloud.unrecorded():
        remove_entries(world.ledger._store, next(iter(world.ledger.batches_of_day(HOUR[:10]))))  # type: ignore[attr-defined]
        item = scene.dynamo.get("RecentEvents", {"id": {"S": "c"}}) or {}
        scene.dynamo.put("RecentEvents", item | {"source": {"S": str(world.source(0))}})
    repair_range(ALL, replace(context, dry_run=True))
    assert repair_range(ALL, context).lost
    with scene.cloud.unrecorded():
        scene.dynamo.put("RecentEvents", item)
    assert repair_range(Range(world.partition(), 0, 5), context).batches
    world.event_log.retain_from(TOPIC, 0, 5)
    for folder in ("parquet/", "duplicates/"):
        _delete_folder(scene, folder)
        repair_range(ALL, context)
    assert repair_range(ALL, context).batches


def _delete_folder(scene: Scene, folder: str) -> None:
    with scene.cloud.unrecorded():
        scene.world.object_store.delete(list(scene.world.object_store.list_keys(folder)))


def aborted_uploads(scene: Scene) -> None:
    """Upload a file of several parts. At first the second part is rejected, which aborts the upload."""
    file = scene.folder / "large"
    file.write_bytes(b"." * 15 * 2**20)
    for key in ("parquet/large", "aggregates/large"):
        scene.cloud.refuse = lambda method, query: method == "PUT" and "partNumber=2" in query
        with pytest.raises(AnalyticsError):
            scene.world.object_store.upload(key, str(file), "application/octet-stream")
        scene.cloud.refuse = lambda *_: False
        scene.world.object_store.upload(key, str(file), "application/octet-stream")


def run_logs(scene: Scene) -> None:
    """Write the compute logs of a run, and delete them, as `purge_old_runs` does."""
    with _instance(scene) as instance:

        @dg.job(executor_def=dg.in_process_executor)
        def printing() -> None:
            dg.op(name="print")(lambda: print("a line"))()  # noqa: T201

        result = printing.execute_in_process(instance=instance)
        purge_runs._delete_run(instance, result.dagster_run)
        assert instance.get_run_by_id(result.run_id) is None


def code(scene: Scene) -> None:
    """Evaluate the sensor and write the log of a tick, as the code server does."""
    with scene.cloud.unrecorded():
        scene.ingest_history()
        scene.world.ledger.renew_lease(Lease("a run", 0, scene.world.clock.now()))
        scene.world.produce(event("waiting"))
    with _instance(scene) as instance:
        first = scene.platform.tick(instance)
        assert first.run_requests
        scene.world.clock.advance(timedelta(minutes=5))
        scene.platform.tick(instance, first.cursor)
        with instance.compute_log_manager.open_log_stream(["repository", "kafka_micro_batches", "1"], ComputeIOType.STDERR) as stream:
            _write(stream, "a tick's log")


def webserver(scene: Scene) -> None:
    """Read the compute logs of runs and ticks, as the webserver does."""
    key = ["a run", "compute_logs", "step"]
    with _instance(scene) as instance:
        logs = instance.compute_log_manager
        with scene.cloud.unrecorded(), logs.open_log_stream(key, ComputeIOType.STDERR) as stream:
            _write(stream, "a line")
        for name in ("step", "none"):
            logs.get_log_data_for_type([*key[:2], name], ComputeIOType.STDERR, 0, None)
        logs.get_log_metadata(key)
        logs.is_capture_complete(key)
        assert list(logs.get_log_keys_for_log_key_prefix(key[:2], ComputeIOType.STDERR))


def health(scene: Scene) -> None:
    """Probe the stores, read the statistics, and trace records and ids in every state, as the health endpoint does."""
    world = scene.world
    with scene.cloud.unrecorded():
        scene.ingest_history()
        redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive"))
        compact_hour(HOUR, scene.ports, memory_workspace)
        world.produce(event("pending"))
        with pytest.raises(Crashed):
            world.run(ports=intercept(world.ports, failing("claim", True, lambda _: Crashed())))
        world.produce(event("not read yet"))
    clients = HealthClients((TOPIC,), scene.ports, world.event_log, None)  # type: ignore[arg-type]
    probe_dynamodb(clients)
    probe_object_store(clients)
    read_ledger_statistics(clients)
    for source_or_id in [*map(str, world.values), *"abcd", "big", "deep", "pending"]:
        trace_record(source_or_id, scene.ports)


def operator(scene: Scene) -> None:
    """Execute the flows of the operator's commands that runs do not execute."""
    world, ports = scene.world, scene.ports
    with scene.cloud.unrecorded():
        scene.ingest_history()
    assert all(result.passed for result in run_preflight(scene.provisioners))
    list(list_dead_letters(DeadLetterFilter(), ports))
    with pytest.raises(Crashed):
        redrive_dead_letters(
            DeadLetterFilter(), intercept(world.ports, failing("claim", True, lambda _: Crashed())), ingest_options("redrive")
        )
    redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive"))
    with scene.cloud.unrecorded():
        compact_hour(HOUR, ports, memory_workspace)
    compare_bytes(HOUR, ports, BENCH)
    audit_offsets(ports)
    assert not audit_chain(ports).findings
    with scene.cloud.unrecorded():
        foreign = part_key(HOUR, "20240115T120000000Z-000000000000")
        world.object_store.put([StoredObject(foreign, b"", "application/octet-stream", {})])
    assert any(foreign in finding for finding in audit_hour(HOUR, ports).findings)
    with scene.cloud.unrecorded():
        world.object_store.delete([foreign])
    for _ in range(2):
        with scene.cloud.unrecorded():
            corrupt(world.ledger, CounterItem(0), 3)  # type: ignore[arg-type]
        assert apply_adjustments(compare_counters(ports, memory_workspace, lambda *_: None), ports)
    world.recreate_topic(partitions=2)
    accept_recreated_topic(TOPIC, ports)


def _write(stream: Any, text: str) -> None:
    """Write text. Dagster declares a binary stream and opens a text stream."""
    stream.write(text)


@contextmanager
def _instance(scene: Scene) -> Iterator[dg.DagsterInstance]:
    """Yield an instance with SQLite and the production compute logs, configured by the environment."""
    compute_logs = {
        "module": "analytics_defs.defs.runtime.compute_logs",
        "class": "ArchiveComputeLogManager",
    }
    (scene.folder / "dagster.yaml").write_text(json.dumps({"compute_logs": compute_logs}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIO_ENDPOINT", scene.cloud.endpoint)
        patch.setenv("ARCHIVE_BUCKET_NAME", BUCKET)
        patch.setattr("tempfile.tempdir", str(scene.folder))
        with dg.DagsterInstance.from_config(str(scene.folder)) as instance:
            yield instance
