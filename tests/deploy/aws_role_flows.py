"""What each role does, on a recorded cloud: every flow it can run, with the crashes, repeats and damages that make it ask for more."""

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
from analytics_defs.flows.audit.recent_hours import compare_stores
from analytics_defs.flows.health_checks import HealthClients, probe_dynamodb, probe_object_store, read_ledger_statistics
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import restore_hour
from analytics_defs.flows.hours.statistics import compute_daily_stats, compute_hourly_stats, compute_product_activity
from analytics_defs.flows.ingest.accept_topic import accept_recreated_topic
from analytics_defs.flows.redrive import DeadLetterFilter, list_dead_letters, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import ReplayContext, repair_range
from analytics_defs.flows.setup.platform_identity import verify_stores
from analytics_defs.flows.setup.preflight import run_preflight
from analytics_defs.flows.setup.provision import provision
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import Ports
from tests.contracts.object_store_fixtures import s3_client
from tests.defs.memory_platform import MemoryPlatform
from tests.deploy.aws import BUCKET, Cloud
from tests.flows.audit.test_counters_in_dynamodb import corrupt
from tests.flows.hours.test_statistics import BENCH
from tests.proof.clocks import Eventful
from tests.proof.doors import Call, Crashed, failing, through
from tests.proof.world import HOUR, RULES, TOPIC, World, conduct, event, legacy_event

STRICT = ValidationRules(max_event_bytes=300)
BEFORE = "2024-01-15T09"
ALL = HourRange("2024-01-15T09", "2024-01-15T13")
DEEP: Any = json.loads("[" * 40 + "]" * 40)
"""DynamoDB holds 32 levels: the item points to its object."""
SETTINGS = {"archive_bucket_name": BUCKET, "kafka_topics": (TOPIC,), "minio_snowball": "off"}
"""Nothing is asked for below `unpacking/` on Amazon S3 itself: only an endpoint of one's own, as the cloud here has, is tried for it."""


class Noted:
    """A store whose methods are written down where they are called."""

    def __init__(self, store: object, name: str, cloud: Cloud) -> None:
        self._store, self._name, self._noting = store, name, cloud

    def __getattr__(self, method: str) -> Any:
        if not method.startswith("_"):
            self._noting.called.add(f"{self._name}.{method}")
        return getattr(self._store, method)


@dataclass
class Scene:
    """A platform of production's adapters on the cloud, and Kafka in memory."""

    cloud: Cloud
    folder: Path
    closing: list[Callable[[], None]] = field(default_factory=list)

    @cached_property
    def settings(self) -> Settings:
        return Settings(dynamo_endpoint=self.cloud.endpoint, minio_endpoint=self.cloud.endpoint, **SETTINGS)  # type: ignore[arg-type]

    @cached_property
    def grounds(self) -> tuple[DynamoProvisioner, BucketProvisioner]:
        tables = expected_tables(self.settings.recent_events_table_name, self.tables)
        found = DynamoProvisioner(self.dynamo, tables), BucketProvisioner(wiring.object_store_config(self.settings))
        self.closing.append(found[1].close)
        return found

    @cached_property
    def tables(self) -> LedgerTables:
        return LedgerTables(self.settings.ledger_table_name, self.settings.aggregates_table_name)

    @cached_property
    def dynamo(self) -> DynamoClient:
        found = DynamoClient(wiring.dynamo_config(self.settings))
        self.closing.append(found.close)
        return found

    @cached_property
    def world(self) -> World:
        """Empty, with its one topic of two partitions."""
        archive = S3ObjectStore(wiring.object_store_config(self.settings))
        self.closing.append(archive.close)
        recent = DynamoRecentEvents(self.dynamo, self.settings.recent_events_table_name)
        made: Any = World
        stores = {"recent_events": recent, "object_store": archive, "ledger": DynamoLedger(self.dynamo, self.tables)}
        world: World = made(**{name: Noted(store, name, self.cloud) for name, store in stores.items()})
        world.create(partitions=2)
        return world

    @property
    def ports(self) -> Ports:
        """With threads, as in production."""
        return replace(self.world.ports, task_pool=ThreadTaskPool(4))

    @cached_property
    def platform(self) -> MemoryPlatform:
        """What Dagster's definitions reach, on the same stores."""
        found = MemoryPlatform()
        found.log, found.clock = self.world.event_log, Eventful(self.world.clock.now())
        found._ports, found._settings = replace(self.world.ports, clock=found.clock), self.settings
        return found

    def history(self) -> None:
        """Batches of two hours: a legacy event, repeats, dead letters, a tombstone, an item that points to its object."""
        world = self.world
        world.produce(event("a"), event("b", f"{BEFORE}:59:59Z"), b'{"id": NaN}', None, event("big", padding="." * 400))
        world.produce(event("a", payload="other"), legacy_event(), event("deep", padding=DEEP), partition=1)
        world.settle(conduct(validation_rules=ValidationRules(max_event_bytes=300)))
        world.produce(event("c"), event("b", payload="again"), event("d"), event("deep", padding=DEEP))
        world.settle(conduct(limits=BatchLimits(max_records=2)))

    def close(self) -> None:
        for each in self.closing:
            each()


@contextmanager
def scene(cloud: Cloud, folder: Path) -> Iterator[Scene]:
    """Tables and bucket are there."""
    found = Scene(cloud, folder)
    try:
        assert all(each.fault is None for each in provision(found.grounds))
        yield found
    finally:
        found.close()


def set_up(scene: Scene) -> None:
    """From nothing, and once more where all is there."""
    with scene.cloud.aside():
        for table in expected_tables("RecentEvents", scene.tables):
            scene.dynamo.call("delete_table", [], TableName=table.name)
        with s3_client(wiring.object_store_config(scene.settings)) as s3:
            s3.delete_bucket(Bucket=BUCKET)
    for _ in range(2):
        assert all(each.fault is None for each in provision(scene.grounds))


def micro_batches(scene: Scene) -> None:
    world = scene.world
    scene.history()
    with dg.DagsterInstance.ephemeral() as instance:
        for name in ("e", "f"):
            world.produce(event(name), event(name))
            assert scene.platform.run(instance).success
    _crashes_everywhere(world)
    world.produce(event("closed by another"))
    world.run(ports=through(world.ports, _closed_by_another))
    world.clock.advance(timedelta(days=30))
    world.produce(event("a", payload="after its item was forgotten"))
    world.settle()
    assert audit_offsets(world.ports).unaccounted == 0


def _crashes_everywhere(world: World) -> None:
    """At every call of an executor, before and after it took effect; another one goes on."""
    at = 0
    while True:
        world.produce(event(f"x{at}"), event("a", payload=f"{at}"), b"{")
        try:
            world.run(ports=through(world.ports, failing(at, at % 2 == 0, lambda _: Crashed())))
        except Crashed:
            world.settle()
            at += 1
            continue
        break
    assert at > 10


def _closed_by_another(call: Call, perform: Callable[[], Any]) -> Any:
    """Somebody else closes each batch a moment earlier."""
    if call.method == "close_batch":
        assert perform()
    return perform()


def hours(scene: Scene) -> None:
    world, ports = scene.world, scene.ports
    with scene.cloud.aside():
        scene.history()
        assert redrive_dead_letters(DeadLetterFilter(), world.ports, conduct("redrive")).stored
    verify_stores(ports)
    for hour in (BEFORE, HOUR):
        compact_hour(hour, ports, memory_workspace)
        compute_hourly_stats(hour, ports, BENCH)
    compute_daily_stats(HOUR[:10], ports, BENCH)
    compute_product_activity(HOUR[:10], ports, BENCH)
    with scene.cloud.aside():
        world.produce(event("late"), event("later"))
        world.settle()
        world.object_store.delete([part_key(HOUR, batch) for batch in world.ledger.batches_of_hour(HOUR)])
        for item in ("a", "d"):
            scene.dynamo.delete("RecentEvents", {"id": {"S": item}})
    assert compact_hour(HOUR, ports, memory_workspace).rebuilt
    restore_hour(HOUR, ports, BENCH)
    compare_stores(ports)
    _replays(scene)
    uploads_that_break_off(scene)


def _replays(scene: Scene) -> None:
    """Everything is lost, one tree after the other, and comes back: from Kafka, and from the other stores where retention took it."""
    world, means = scene.world, ReplayContext(scene.ports, BENCH, RULES)
    for tree in ("events/", "parquet/", "dead-letters/", "duplicates/"):
        _lose(scene, tree)
        assert repair_range(ALL, means).changed
    repair_range(ALL, replace(means, write=False))
    assert repair_range(Range(world.partition(), 0, 5), means).batches
    world.event_log.retain_from(TOPIC, 0, 5)
    for tree in ("parquet/", "duplicates/"):
        _lose(scene, tree)
        repair_range(ALL, means)
    assert repair_range(ALL, means).batches


def _lose(scene: Scene, tree: str) -> None:
    with scene.cloud.aside():
        scene.world.object_store.delete(list(scene.world.object_store.list_keys(tree)))


def uploads_that_break_off(scene: Scene) -> None:
    """Larger than one piece; the second piece is refused, then all are taken."""
    file = scene.folder / "large"
    file.write_bytes(b"." * 15 * 2**20)
    for key in ("parquet/large", "aggregates/large"):
        scene.cloud.refuse = lambda method, query: method == "PUT" and "partNumber=2" in query
        with pytest.raises(AnalyticsError):
            scene.world.object_store.upload(key, str(file), "application/octet-stream")
        scene.cloud.refuse = lambda *_: False
        scene.world.object_store.upload(key, str(file), "application/octet-stream")


def run_logs(scene: Scene) -> None:
    """What every run but a micro-batch writes, and what `purge_old_runs` removes."""
    with _instance(scene) as instance:

        @dg.job(executor_def=dg.in_process_executor)
        def speaking() -> None:
            dg.op(name="speak")(lambda: print("said"))()  # noqa: T201

        done = speaking.execute_in_process(instance=instance)
        purge_runs._forget_run(instance, done.dagster_run)
        assert instance.get_run_by_id(done.run_id) is None


def ticks(scene: Scene) -> None:
    """The code server: sensors, and what a tick logs."""
    with scene.cloud.aside():
        scene.history()
        scene.world.ledger.renew_lease(Lease("a run", 0, scene.world.clock.now()))
        scene.world.produce(event("waits"))
    with _instance(scene) as instance:
        first = scene.platform.tick(instance)
        assert first.run_requests
        scene.world.clock.advance(timedelta(minutes=5))
        scene.platform.tick(instance, first.cursor)
        with instance.compute_log_manager.open_log_stream(["repository", "kafka_micro_batches", "1"], ComputeIOType.STDERR) as stream:
            _write(stream, "a tick's log")


def interface(scene: Scene) -> None:
    """The webserver shows what runs and ticks printed."""
    key = ["a run", "compute_logs", "step"]
    with _instance(scene) as instance:
        logs = instance.compute_log_manager
        with scene.cloud.aside(), logs.open_log_stream(key, ComputeIOType.STDERR) as stream:
            _write(stream, "said")
        for name in ("step", "none"):
            logs.get_log_data_for_type([*key[:2], name], ComputeIOType.STDERR, 0, None)
        logs.get_log_metadata(key)
        logs.is_capture_complete(key)
        assert list(logs.get_log_keys_for_log_key_prefix(key[:2], ComputeIOType.STDERR))


def watch(scene: Scene) -> None:
    """The health endpoint: checks, figures, and the trace of every record and id in every state."""
    world = scene.world
    with scene.cloud.aside():
        scene.history()
        redrive_dead_letters(DeadLetterFilter(), world.ports, conduct("redrive"))
        compact_hour(HOUR, scene.ports, memory_workspace)
        world.produce(event("pending"))
        with pytest.raises(Crashed):
            world.run(ports=through(world.ports, failing("claim", True, lambda _: Crashed())))
        world.produce(event("not read yet"))
    doors = HealthClients((TOPIC,), scene.ports, world.event_log, None)  # type: ignore[arg-type]
    probe_dynamodb(doors)
    probe_object_store(doors)
    read_ledger_statistics(doors)
    for what in [*map(str, world.values), *"abcd", "big", "deep", "pending"]:
        trace_record(what, scene.ports)


def by_hand(scene: Scene) -> None:
    """What an operator's commands do beyond what runs do."""
    world, ports = scene.world, scene.ports
    with scene.cloud.aside():
        scene.history()
    assert all(each.passed for each in run_preflight(scene.grounds[:2]))
    list(list_dead_letters(DeadLetterFilter(), ports))
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing("claim", True, lambda _: Crashed())), conduct("redrive"))
    redrive_dead_letters(DeadLetterFilter(), world.ports, conduct("redrive"))
    with scene.cloud.aside():
        compact_hour(HOUR, ports, memory_workspace)
    compare_bytes(HOUR, ports, BENCH)
    audit_offsets(ports)
    audit_hour(HOUR, ports)
    for _ in range(2):
        with scene.cloud.aside():
            corrupt(world.ledger, CounterItem(0), 3)  # type: ignore[arg-type]
        assert apply_adjustments(compare_counters(ports, memory_workspace, lambda *_: None), ports)
    world.create_again(partitions=2)
    accept_recreated_topic(TOPIC, ports)


def _write(stream: Any, text: str) -> None:
    """Dagster opens text, and says bytes."""
    stream.write(text)


@contextmanager
def _instance(scene: Scene) -> Iterator[dg.DagsterInstance]:
    """SQLite, with production's compute logs, by the environment's settings."""
    production = {
        "module": "analytics_defs.defs.runtime.compute_logs",
        "class": "LazyS3ComputeLogManager",
        "config": {"without_jobs": ["micro_batch"]},
    }
    (scene.folder / "dagster.yaml").write_text(json.dumps({"compute_logs": production}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIO_ENDPOINT", scene.cloud.endpoint)
        patch.setenv("ARCHIVE_BUCKET_NAME", BUCKET)
        patch.setattr("tempfile.tempdir", str(scene.folder))
        with dg.DagsterInstance.from_config(str(scene.folder)) as instance:
            yield instance
