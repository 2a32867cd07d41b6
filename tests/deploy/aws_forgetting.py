"""What retention does on a recorded cloud, and what every other role does with the hours that it froze."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.adapters.memory.parquet_workspace import memory_table
from analytics_defs.core.hours.retention import LEAST, Ages
from analytics_defs.core.repair import Hours
from analytics_defs.core.storage.object_keys import event_dir, part_key
from analytics_defs.errors import Frozen
from analytics_defs.flows.audit.balance import audit
from analytics_defs.flows.audit.counters import compare, mend
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.audit.recent_hours import compare_stores
from analytics_defs.flows.health_checks import Doors, ask_figures
from analytics_defs.flows.hours.compaction import compact
from analytics_defs.flows.hours.restore import restore
from analytics_defs.flows.hours.statistics import daily_stats, hourly_stats
from analytics_defs.flows.redrive import Selection, dead_letters, redrive
from analytics_defs.flows.repair import repair_range as replaying
from analytics_defs.flows.retention import apply
from analytics_defs.flows.retention.apply import Retention
from analytics_defs.flows.setup.platform_identity import require_together
from analytics_defs.flows.trace.trace import trace
from analytics_defs.ports import Blob, Ports
from tests.deploy.aws_scenes import ALL, BEFORE, STRICT, Scene, uploads_that_break_off
from tests.flows.hours.test_statistics import BENCH
from tests.proof.doors import Call, Crashed, failing, through
from tests.proof.world import HOUR, RULES, TOPIC, conduct, event

OBJECTS, PARQUET, LETTERS, EVERYTHING = Ages(objects=LEAST), Ages(parquet=LEAST), Ages(letters=LEAST), Ages(LEAST, LEAST, LEAST)
OLD = LEAST + timedelta(hours=1)
CRASHES = (
    *((PARQUET, method) for method in ("put", "revise", "advance", "delete")),
    *((OBJECTS, method) for method in ("revise", "advance", "delete")),
    *((LETTERS, method) for method in ("take_letters", "delete")),
)
"""Each kind's calls that change something."""


def forgetting(scene: Scene) -> None:
    """All is old enough: one hour as its batches left it, and damaged, one compacted. Then late events, and what a zombie writes again."""
    world = scene.world
    with scene.cloud.aside():
        scene.history()
        compact(BEFORE, scene.ports, memory_table)
        before = [blob for key in world.archive.keys("") if (blob := world.archive.fetch(key))]
        world.archive.delete([part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0])])
        world.clock.advance(OLD)
    require_together(scene.ports)
    assert _forget(scene, write=False).objects
    for ages, method in CRASHES:
        for effect in (False, True):
            with pytest.raises(Crashed):
                _forget(scene, ages, through(world.ports, failing(method, effect, lambda _: Crashed())))
    assert _forget(scene).waiting == []
    _forget_what_comes_later(scene, before)
    assert {key.partition("/")[2] for key in world.archive.keys("parquet/") if "_SUCCESS" not in key} == {"foreign"}
    assert not [key for tree in ("events/", "dead-letters/", "repeats/") for key in world.archive.keys(tree)]
    uploads_that_break_off(scene)


def _forget_what_comes_later(scene: Scene, before: list[Blob]) -> None:
    """A frozen hour's late event, while a batch is pending and after; leftovers of who slept; what nobody here wrote."""
    world = scene.world
    with scene.cloud.aside():
        world.archive.put([*(blob for blob in before if "_SUCCESS" not in blob.key), Blob("parquet/foreign", b"", "text/plain", {})])
        world.produce(event("late"), event("c", payload="came again"), event("large", padding=". " * 200), b"{")
        world.settle(conduct(rules=STRICT))
        world.produce(event("pending"))
        with pytest.raises(Crashed):
            world.run(ports=through(world.ports, failing("close", False, lambda _: Crashed())))
    assert _forget(scene).objects
    with scene.cloud.aside():
        world.settle()
        world.clock.advance(OLD)
    last = _forget(scene)
    assert {each.tree for each in last.gone} == {"events", "parquet", "dead-letters"}
    assert last.waiting == []


def _forget(scene: Scene, ages: Ages = EVERYTHING, ports: Ports | None = None, write: bool = True) -> Retention:
    return apply.retain(apply.Means(ports or scene.ports, BENCH, ages, write))


def _frozen(scene: Scene, ages: Ages = EVERYTHING) -> None:
    """Somebody else let go of the history; then a late event added to one of its hours."""
    world = scene.world
    with scene.cloud.aside():
        scene.history()
        world.clock.advance(OLD)
        assert _forget(scene, ages).waiting == []
        world.produce(event("late"), event("large", padding="." * 400))
        world.settle(conduct(rules=STRICT))


def micro_batches_after_retention(scene: Scene) -> None:
    """Late events of frozen hours; redrives that died before they were staged, with their letters and without."""
    world = scene.world
    _frozen(scene)
    world.produce(event("later"), event("a", payload="came again"), event("old", f"{BEFORE}:00:00Z"))
    world.settle()
    for door in (failing("put_if_absent", False, lambda _: Crashed()), _letters_go_before_the_take(scene)):
        with scene.cloud.aside():
            world.produce(event(f"too large {door}", padding="." * 400))
            world.settle(conduct(rules=STRICT))
            world.clock.advance(OLD)
            with pytest.raises(Crashed):
                redrive(Selection(), through(world.ports, door), conduct("redrive"))
            (pending,) = world.ledger.snapshot().pending.values()
            assert pending.staged is None
        world.settle()
        assert not world.ledger.snapshot().pending
    assert audit(world.ports).unaccounted == 0


def _letters_go_before_the_take(scene: Scene) -> Callable[[Call, Callable[[], Any]], Any]:
    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "take":
            assert _forget(scene, LETTERS).objects
            perform()
            raise Crashed
        return perform()

    return door


def hours_after_retention(scene: Scene) -> None:
    """What is gone is refused, what came later is worked on."""
    ports = scene.ports
    _frozen(scene)
    means = replaying.Means(ports, BENCH, RULES)
    for refused in (
        lambda: restore(BEFORE, ports, BENCH),
        lambda: hourly_stats(HOUR, ports, BENCH),
        lambda: replaying.replay(ALL, means),
    ):
        with pytest.raises(Frozen):
            refused()
    for hour in (BEFORE, HOUR):
        compact(hour, ports, memory_table)
    assert restore(HOUR, ports, BENCH).taken
    assert daily_stats(HOUR[:10], ports, BENCH).frozen
    compare_stores(ports)
    with scene.cloud.aside():
        scene.world.produce(event("young", "2024-02-15T10:00:00Z"))
        scene.world.settle()
        scene.world.archive.delete(list(scene.world.archive.keys(event_dir("2024-02-15T10"))))
    assert replaying.replay(Hours("2024-02-15T10", "2024-02-15T11"), means).changed


def watch_after_retention(scene: Scene) -> None:
    """Traces where everything is gone, and of what came later."""
    _frozen(scene)
    _look_at_all(scene)


def watch_after_parquet_went(scene: Scene) -> None:
    _frozen(scene, PARQUET)
    _look_at_all(scene)


def _look_at_all(scene: Scene) -> None:
    ask_figures(Doors((TOPIC,), scene.ports, scene.world.log, None))  # type: ignore[arg-type]
    for what in [*map(str, scene.world.values), *"abcd", "late"]:
        trace(what, scene.ports)


def by_hand_after_retention(scene: Scene) -> None:
    """Letters that are gone are refused by name; audits and recompute name frozen hours."""
    world, ports = scene.world, scene.ports
    _frozen(scene)
    gone = next(each.batch.id for each in world.ledger.records_from("2024") if each.dead_letters_key)
    for selection in (Selection(batch_id=gone), Selection(hour="2024-01-15T12")):
        with pytest.raises(Frozen):
            redrive(selection, ports, conduct("redrive"))
    assert list(dead_letters(Selection(), ports))
    assert redrive(Selection(), ports, conduct("redrive")).stored
    assert audit_hour(HOUR, ports).frozen
    compare_bytes(HOUR, ports, BENCH)
    found = compare(ports, memory_table, lambda *_: None)
    assert HOUR in found.frozen
    mend(found, ports)
