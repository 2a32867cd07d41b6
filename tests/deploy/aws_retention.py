"""Retention on a recorded cloud, and the flows of every other role with expired hours."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.hours.retention import MIN_RETENTION, RetentionPolicy
from analytics_defs.core.repair import HourRange
from analytics_defs.core.storage.object_keys import event_json_dir, part_key
from analytics_defs.errors import DataExpired
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.counters import apply_adjustments, compare_counters
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.audit.recent_hours import compare_stores
from analytics_defs.flows.health_probes import HealthClients, read_ledger_statistics
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import restore_hour
from analytics_defs.flows.hours.statistics import compute_daily_stats, compute_hourly_stats
from analytics_defs.flows.redrive import DeadLetterFilter, list_dead_letters, redrive_dead_letters
from analytics_defs.flows.repair import repair_range as repair
from analytics_defs.flows.retention import apply
from analytics_defs.flows.retention.expiry_sweep import RetentionContext, RetentionReport
from analytics_defs.flows.setup.platform_identity import verify_stores
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import Ports, StoredObject
from tests.deploy.aws_role_flows import ALL, BEFORE, STRICT, Scene, aborted_uploads
from tests.flows.hours.test_statistics import BENCH
from tests.proof.interceptors import Call, Crashed, failing, intercept
from tests.proof.world import HOUR, RULES, TOPIC, event, ingest_options

EVENT_JSON, PARQUET, DEAD_LETTERS, EVERYTHING = (
    RetentionPolicy(event_json=MIN_RETENTION),
    RetentionPolicy(parquet=MIN_RETENTION),
    RetentionPolicy(dead_letters=MIN_RETENTION),
    RetentionPolicy(MIN_RETENTION, MIN_RETENTION, MIN_RETENTION),
)
OLD = MIN_RETENTION + timedelta(hours=1)
CRASHES = (
    *((PARQUET, method) for method in ("put", "put_revision", "put_if", "delete")),
    *((EVENT_JSON, method) for method in ("put_revision", "put_if", "delete")),
    *((DEAD_LETTERS, method) for method in ("record_dead_letter_expiry", "delete")),
)
"""Calls that change data, with a policy that leads to them."""


def retention(scene: Scene) -> None:
    """Expire a damaged hour and a compacted hour, with a crash at each call. Then expire late events and files of a zombie executor."""
    world = scene.world
    with scene.cloud.unrecorded():
        scene.ingest_history()
        compact_hour(BEFORE, scene.ports, memory_workspace)
        before = [object_ for key in world.object_store.list_keys("") if (object_ := world.object_store.get_object(key))]
        world.object_store.delete([part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0])])
        world.clock.advance(OLD)
    verify_stores(scene.ports)
    assert _expire(scene, dry_run=True).objects
    for policy, method in CRASHES:
        for effect in (False, True):
            with pytest.raises(Crashed):
                _expire(scene, policy, intercept(world.ports, failing(method, effect, lambda _: Crashed())))
    assert _expire(scene).skipped_hours == []
    _expire_later_data(scene, before)
    assert {key.partition("/")[2] for key in world.object_store.list_keys("parquet/") if "_SUCCESS" not in key} == {"foreign"}
    assert not [key for folder in ("events/", "dead-letters/", "duplicates/") for key in world.object_store.list_keys(folder)]
    aborted_uploads(scene)


def _expire_later_data(scene: Scene, before: list[StoredObject]) -> None:
    """Expire late events of an expired hour, during and after a pending batch, beside files of a zombie and a foreign object."""
    world = scene.world
    with scene.cloud.unrecorded():
        world.object_store.put(
            [*(object_ for object_ in before if "_SUCCESS" not in object_.key), StoredObject("parquet/foreign", b"", "text/plain", {})]
        )
        world.produce(event("late"), event("c", payload="second time"), event("large", padding=". " * 200), b"{")
        world.settle(ingest_options(validation_rules=STRICT))
        world.produce(event("pending"))
        with pytest.raises(Crashed):
            world.run(ports=intercept(world.ports, failing("close_batch", False, lambda _: Crashed())))
    assert _expire(scene).objects
    with scene.cloud.unrecorded():
        world.settle()
        world.clock.advance(OLD)
    last = _expire(scene)
    assert {deleted.tree for deleted in last.deleted} == {"events", "parquet", "dead-letters"}
    assert last.skipped_hours == []


def _expire(scene: Scene, policy: RetentionPolicy = EVERYTHING, ports: Ports | None = None, dry_run: bool = False) -> RetentionReport:
    return apply.apply_retention(RetentionContext(ports or scene.ports, BENCH, policy, dry_run))


def _expire_history(scene: Scene, policy: RetentionPolicy = EVERYTHING) -> None:
    """Ingest and expire the history, unrecorded. Then ingest a late event of an expired hour."""
    world = scene.world
    with scene.cloud.unrecorded():
        scene.ingest_history()
        world.clock.advance(OLD)
        assert _expire(scene, policy).skipped_hours == []
        world.produce(event("late"), event("large", padding="." * 400))
        world.settle(ingest_options(validation_rules=STRICT))


def micro_batches_after_retention(scene: Scene) -> None:
    """Ingest late events of expired hours. Finish redrives that crashed before staging, with and without their dead letters."""
    world = scene.world
    _expire_history(scene)
    world.produce(event("later"), event("a", payload="second time"), event("old", f"{BEFORE}:00:00Z"))
    world.settle()
    for interceptor in (failing("put_if_absent", False, lambda _: Crashed()), _expire_dead_letters_before_begin(scene)):
        with scene.cloud.unrecorded():
            world.produce(event(f"too large {interceptor}", padding="." * 400))
            world.settle(ingest_options(validation_rules=STRICT))
            world.clock.advance(OLD)
            with pytest.raises(Crashed):
                redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, interceptor), ingest_options("redrive"))
            (pending,) = world.ledger.snapshot().pending.values()
            assert pending.staged is None
        world.settle()
        assert not world.ledger.snapshot().pending
    assert audit_offsets(world.ports).unaccounted == 0


def _expire_dead_letters_before_begin(scene: Scene) -> Callable[[Call, Callable[[], Any]], Any]:
    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch":
            assert _expire(scene, DEAD_LETTERS).objects
            perform()
            raise Crashed
        return perform()

    return interceptor


def hours_after_retention(scene: Scene) -> None:
    """Refuse hours with expired data, and process later events of these hours."""
    ports = scene.ports
    _expire_history(scene)
    context = repair.RepairContext(ports, BENCH, RULES)
    for refused in (
        lambda: restore_hour(BEFORE, ports, BENCH),
        lambda: compute_hourly_stats(HOUR, ports, BENCH),
        lambda: repair.repair_range(ALL, context),
    ):
        with pytest.raises(DataExpired):
            refused()
    for hour in (BEFORE, HOUR):
        compact_hour(hour, ports, memory_workspace)
    assert restore_hour(HOUR, ports, BENCH).expired_rows
    assert compute_daily_stats(HOUR[:10], ports, BENCH).expired_hours
    compare_stores(ports)
    with scene.cloud.unrecorded():
        scene.world.produce(event("young", "2024-02-15T10:00:00Z"))
        scene.world.settle()
        scene.world.object_store.delete(list(scene.world.object_store.list_keys(event_json_dir("2024-02-15T10"))))
    assert repair.repair_range(HourRange("2024-02-15T10", "2024-02-15T11"), context).changed


def health_after_retention(scene: Scene) -> None:
    """Trace expired records and later ones."""
    _expire_history(scene)
    _trace_everything(scene)


def health_after_parquet_expired(scene: Scene) -> None:
    _expire_history(scene, PARQUET)
    _trace_everything(scene)


def _trace_everything(scene: Scene) -> None:
    read_ledger_statistics(HealthClients((TOPIC,), scene.ports, scene.world.event_log, None))  # type: ignore[arg-type]
    for source_or_id in [*map(str, scene.world.values), *"abcd", "late"]:
        trace_record(source_or_id, scene.ports)


def operator_after_retention(scene: Scene) -> None:
    """Refuse to redrive expired dead letters. Audit hours and counters with expired data."""
    world, ports = scene.world, scene.ports
    _expire_history(scene)
    expired = next(record.batch.id for record in world.ledger.batch_records_from("2024") if record.dead_letters_key)
    for selection in (DeadLetterFilter(batch_id=expired), DeadLetterFilter(hour="2024-01-15T12")):
        with pytest.raises(DataExpired):
            redrive_dead_letters(selection, ports, ingest_options("redrive"))
    assert list(list_dead_letters(DeadLetterFilter(), ports))
    assert redrive_dead_letters(DeadLetterFilter(), ports, ingest_options("redrive")).stored
    assert audit_hour(HOUR, ports).expiry
    compare_bytes(HOUR, ports, BENCH)
    comparison = compare_counters(ports, memory_workspace, lambda *_: None)
    assert HOUR in comparison.expired_hours
    apply_adjustments(comparison, ports)
