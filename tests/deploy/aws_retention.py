"""What retention does on a recorded cloud, and what every other role does with the hours that it froze."""

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
from analytics_defs.flows.health_checks import HealthClients, read_ledger_statistics
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import restore_hour
from analytics_defs.flows.hours.statistics import compute_daily_stats, compute_hourly_stats
from analytics_defs.flows.redrive import DeadLetterFilter, list_dead_letters, redrive_dead_letters
from analytics_defs.flows.repair import repair_range as replaying
from analytics_defs.flows.retention import apply
from analytics_defs.flows.retention.report import RetentionReport
from analytics_defs.flows.retention.sweep import RetentionContext
from analytics_defs.flows.setup.platform_identity import verify_stores
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import Ports, StoredObject
from tests.deploy.aws_role_flows import ALL, BEFORE, STRICT, Scene, uploads_that_break_off
from tests.flows.hours.test_statistics import BENCH
from tests.proof.doors import Call, Crashed, failing, through
from tests.proof.world import HOUR, RULES, TOPIC, conduct, event

OBJECTS, PARQUET, LETTERS, EVERYTHING = (
    RetentionPolicy(event_json=MIN_RETENTION),
    RetentionPolicy(parquet=MIN_RETENTION),
    RetentionPolicy(dead_letters=MIN_RETENTION),
    RetentionPolicy(MIN_RETENTION, MIN_RETENTION, MIN_RETENTION),
)
OLD = MIN_RETENTION + timedelta(hours=1)
CRASHES = (
    *((PARQUET, method) for method in ("put", "put_revision", "put_if", "delete")),
    *((OBJECTS, method) for method in ("put_revision", "put_if", "delete")),
    *((LETTERS, method) for method in ("expire_dead_letters", "delete")),
)
"""Each kind's calls that change something."""


def forgetting(scene: Scene) -> None:
    """All is old enough: one hour as its batches left it, and damaged, one compacted. Then late events, and what a zombie writes again."""
    world = scene.world
    with scene.cloud.aside():
        scene.history()
        compact_hour(BEFORE, scene.ports, memory_workspace)
        before = [blob for key in world.object_store.list_keys("") if (blob := world.object_store.get_object(key))]
        world.object_store.delete([part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0])])
        world.clock.advance(OLD)
    verify_stores(scene.ports)
    assert _forget(scene, write=False).objects
    for ages, method in CRASHES:
        for effect in (False, True):
            with pytest.raises(Crashed):
                _forget(scene, ages, through(world.ports, failing(method, effect, lambda _: Crashed())))
    assert _forget(scene).skipped_hours == []
    _forget_what_comes_later(scene, before)
    assert {key.partition("/")[2] for key in world.object_store.list_keys("parquet/") if "_SUCCESS" not in key} == {"foreign"}
    assert not [key for tree in ("events/", "dead-letters/", "duplicates/") for key in world.object_store.list_keys(tree)]
    uploads_that_break_off(scene)


def _forget_what_comes_later(scene: Scene, before: list[StoredObject]) -> None:
    """A frozen hour's late event, while a batch is pending and after; leftovers of who slept; what nobody here wrote."""
    world = scene.world
    with scene.cloud.aside():
        world.object_store.put(
            [*(blob for blob in before if "_SUCCESS" not in blob.key), StoredObject("parquet/foreign", b"", "text/plain", {})]
        )
        world.produce(event("late"), event("c", payload="came again"), event("large", padding=". " * 200), b"{")
        world.settle(conduct(validation_rules=STRICT))
        world.produce(event("pending"))
        with pytest.raises(Crashed):
            world.run(ports=through(world.ports, failing("close_batch", False, lambda _: Crashed())))
    assert _forget(scene).objects
    with scene.cloud.aside():
        world.settle()
        world.clock.advance(OLD)
    last = _forget(scene)
    assert {each.tree for each in last.deleted} == {"events", "parquet", "dead-letters"}
    assert last.skipped_hours == []


def _forget(scene: Scene, ages: RetentionPolicy = EVERYTHING, ports: Ports | None = None, write: bool = True) -> RetentionReport:
    return apply.apply_retention(RetentionContext(ports or scene.ports, BENCH, ages, write))


def _frozen(scene: Scene, ages: RetentionPolicy = EVERYTHING) -> None:
    """Somebody else let go of the history; then a late event added to one of its hours."""
    world = scene.world
    with scene.cloud.aside():
        scene.history()
        world.clock.advance(OLD)
        assert _forget(scene, ages).skipped_hours == []
        world.produce(event("late"), event("large", padding="." * 400))
        world.settle(conduct(validation_rules=STRICT))


def micro_batches_after_retention(scene: Scene) -> None:
    """Late events of frozen hours; redrives that died before they were staged, with their letters and without."""
    world = scene.world
    _frozen(scene)
    world.produce(event("later"), event("a", payload="came again"), event("old", f"{BEFORE}:00:00Z"))
    world.settle()
    for door in (failing("put_if_absent", False, lambda _: Crashed()), _letters_go_before_the_take(scene)):
        with scene.cloud.aside():
            world.produce(event(f"too large {door}", padding="." * 400))
            world.settle(conduct(validation_rules=STRICT))
            world.clock.advance(OLD)
            with pytest.raises(Crashed):
                redrive_dead_letters(DeadLetterFilter(), through(world.ports, door), conduct("redrive"))
            (pending,) = world.ledger.snapshot().pending.values()
            assert pending.staged is None
        world.settle()
        assert not world.ledger.snapshot().pending
    assert audit_offsets(world.ports).unaccounted == 0


def _letters_go_before_the_take(scene: Scene) -> Callable[[Call, Callable[[], Any]], Any]:
    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch":
            assert _forget(scene, LETTERS).objects
            perform()
            raise Crashed
        return perform()

    return door


def hours_after_retention(scene: Scene) -> None:
    """What is gone is refused, what came later is worked on."""
    ports = scene.ports
    _frozen(scene)
    means = replaying.ReplayContext(ports, BENCH, RULES)
    for refused in (
        lambda: restore_hour(BEFORE, ports, BENCH),
        lambda: compute_hourly_stats(HOUR, ports, BENCH),
        lambda: replaying.repair_range(ALL, means),
    ):
        with pytest.raises(DataExpired):
            refused()
    for hour in (BEFORE, HOUR):
        compact_hour(hour, ports, memory_workspace)
    assert restore_hour(HOUR, ports, BENCH).expired_rows
    assert compute_daily_stats(HOUR[:10], ports, BENCH).expired_hours
    compare_stores(ports)
    with scene.cloud.aside():
        scene.world.produce(event("young", "2024-02-15T10:00:00Z"))
        scene.world.settle()
        scene.world.object_store.delete(list(scene.world.object_store.list_keys(event_json_dir("2024-02-15T10"))))
    assert replaying.repair_range(HourRange("2024-02-15T10", "2024-02-15T11"), means).changed


def watch_after_retention(scene: Scene) -> None:
    """Traces where everything is gone, and of what came later."""
    _frozen(scene)
    _look_at_all(scene)


def watch_after_parquet_went(scene: Scene) -> None:
    _frozen(scene, PARQUET)
    _look_at_all(scene)


def _look_at_all(scene: Scene) -> None:
    read_ledger_statistics(HealthClients((TOPIC,), scene.ports, scene.world.event_log, None))  # type: ignore[arg-type]
    for what in [*map(str, scene.world.values), *"abcd", "late"]:
        trace_record(what, scene.ports)


def by_hand_after_retention(scene: Scene) -> None:
    """Letters that are gone are refused by name; audits and recompute name frozen hours."""
    world, ports = scene.world, scene.ports
    _frozen(scene)
    gone = next(each.batch.id for each in world.ledger.batch_records_from("2024") if each.dead_letters_key)
    for selection in (DeadLetterFilter(batch_id=gone), DeadLetterFilter(hour="2024-01-15T12")):
        with pytest.raises(DataExpired):
            redrive_dead_letters(selection, ports, conduct("redrive"))
    assert list(list_dead_letters(DeadLetterFilter(), ports))
    assert redrive_dead_letters(DeadLetterFilter(), ports, conduct("redrive")).stored
    assert audit_hour(HOUR, ports).expiry
    compare_bytes(HOUR, ports, BENCH)
    found = compare_counters(ports, memory_workspace, lambda *_: None)
    assert HOUR in found.expired_hours
    apply_adjustments(found, ports)
