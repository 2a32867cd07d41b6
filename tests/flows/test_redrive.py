"""Dead letters put through again: counted once under their new outcome, whoever tries, and however often."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.ledger import BatchKind, Lease, OutcomeCounts
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage.object_keys import dead_letters_key
from analytics_defs.errors import InconsistentState, Superseded, Unavailable
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.ingest.reread_batch import read_batch_dead_letters
from analytics_defs.flows.redrive import DeadLetterFilter, RedriveResult, list_dead_letters, redrive_dead_letters
from analytics_defs.flows.trace.outcome import RecordOutcome
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import Ports, StoredObject
from tests.flows.ingest.test_execute_plan import failing_at, problems, remove_rules
from tests.proof.doors import Call, Crashed, failing, through
from tests.proof.world import TOPIC, World, conduct, event

STRICT = ValidationRules(max_event_bytes=300)
BROKEN = b'{"id": NaN}'


def large(event_id: str, **fields: Any) -> bytes:
    return event(event_id, padding="." * 400, **fields)


def a_world() -> World:
    """Two events that were too large for the rules of their time, one that never is an event, and one that was stored."""
    world = World()
    world.create()
    world.produce(large("a"), event("fine"), BROKEN, large("b"))
    world.settle(conduct(validation_rules=STRICT))
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, dead_letters=3)
    return world


def again(world: World, selection: DeadLetterFilter = DeadLetterFilter(), **changes: Any) -> RedriveResult:  # noqa: B008 - a value
    world.clock.advance(timedelta(seconds=1))
    return redrive_dead_letters(selection, world.ports, conduct("redrive", **changes))


def test_what_today_is_an_event_is_stored_under_its_own_source_and_counts_once() -> None:
    world = a_world()
    done = again(world)
    assert (done.stored, done.duplicates, done.already_redriven) == (2, 0, 0)
    assert done.still_rejected == [(world.source(2), "not_json")]
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)
    assert world.ids(["a", "b"]) == {"a": world.source(0), "b": world.source(3)}
    assert {name: count for name, count in world.ledger.counters().items() if name.startswith("reason.") and count} == {
        "reason.not_json": 1
    }


def test_the_trace_shows_the_rejection_and_what_became_of_it() -> None:
    world = a_world()
    again(world)
    told = trace_record(str(world.source(0)), world.ports)
    assert told.outcome is RecordOutcome.DEAD_LETTER
    assert told.detail.startswith("too_large")
    assert told.redrive is not None
    assert (told.redrive.outcome, told.redrive.event_id, told.redrive.item) == (RecordOutcome.STORED, "a", "held")
    never = trace_record(str(world.source(2)), world.ports)
    assert (never.outcome, never.redrive) == (RecordOutcome.DEAD_LETTER, None)


def test_a_second_redrive_changes_nothing() -> None:
    world = a_world()
    again(world)
    before = dict(world.object_store.objects), world.ledger.counters()
    done = again(world)
    assert (done.closed, done.already_redriven) == ([], 2)
    assert (world.object_store.objects, world.ledger.counters()) == before


def test_one_whose_id_another_source_holds_by_now_becomes_a_repeat() -> None:
    world = a_world()
    holder = world.produce(event("a", payload="small"))
    world.settle()
    done = again(world)
    assert (done.stored, done.duplicates) == (1, 1)
    assert problems(world) == []
    told = trace_record(str(world.source(0)), world.ports)
    assert told.redrive is not None
    assert (told.redrive.outcome, told.redrive.original_source) == (RecordOutcome.DUPLICATE, holder)


def test_two_dead_letters_of_one_id_become_one_event_and_one_repeat() -> None:
    world = World()
    world.create()
    world.produce(large("a"), large("a", payload="other"))
    world.settle(conduct(validation_rules=STRICT))
    again(world)
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, duplicates=1)


def test_under_rules_that_reject_it_still_nothing_is_changed() -> None:
    world = a_world()
    done = again(world, validation_rules=STRICT)
    assert done.closed == []
    assert len(done.still_rejected) == 3
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, dead_letters=3)


@pytest.mark.parametrize(
    ("selection", "stored"),
    [
        (DeadLetterFilter(reason="too_large"), 2),
        (DeadLetterFilter(reason="schema"), 0),
        (DeadLetterFilter(hour="2024-01-15T12"), 2),
        (DeadLetterFilter(hour="2024-01-15T13"), 0),
        (DeadLetterFilter(reason="not_json", hour="2024-01-15T12"), 0),
    ],
)
def test_only_what_was_selected_is_put_through(selection: DeadLetterFilter, stored: int) -> None:
    assert again(a_world(), selection).stored == stored


@pytest.mark.parametrize(("hour", "stored"), [("2024-01-15T12", 2), ("2024-01-15T13", 0)])
def test_of_a_batch_and_an_hour_both_must_fit(hour: str, stored: int) -> None:
    world = a_world()
    (record,) = world.ledger.last_batches(1)
    assert again(world, DeadLetterFilter(batch_id=record.batch.id, hour=hour)).stored == stored


def test_a_selection_by_batch_takes_the_letters_of_that_batch_only() -> None:
    world = a_world()
    (first,) = world.ledger.last_batches(1)
    world.produce(large("c"))
    world.settle(conduct(validation_rules=STRICT))
    assert [kept.batch_id for kept in list_dead_letters(DeadLetterFilter(batch_id=first.batch.id), world.ports)] == [first.batch.id] * 3
    assert again(world, DeadLetterFilter(batch_id=first.batch.id)).stored == 2
    assert set(world.ids(["a", "b", "c"])) == {"a", "b"}


@pytest.mark.parametrize(
    "look",
    [
        lambda selection, ports: list(list_dead_letters(selection, ports)),
        lambda selection, ports: redrive_dead_letters(selection, ports, conduct()),
    ],
)
def test_a_batch_whose_file_is_gone_is_a_contradiction_not_an_empty_answer(look: Callable[[DeadLetterFilter, Ports], object]) -> None:
    world = a_world()
    (first,) = world.ledger.last_batches(1)
    world.object_store.delete([dead_letters_key(first.batch.id)])
    with pytest.raises(InconsistentState, match=f"expected a file of SHA-256 {first.dead_letters_digest}, found no object"):
        look(DeadLetterFilter(batch_id=first.batch.id), world.ports)


def test_letters_of_a_batch_that_is_not_closed_are_not_put_through() -> None:
    world = World()
    world.create()
    world.produce(large("a"))
    with pytest.raises(Crashed):
        world.run(by=conduct(validation_rules=STRICT), ports=through(world.ports, failing_at("put")))
    assert any(key.startswith("dead-letters/") for key in world.object_store.objects)
    assert again(world).closed == []
    world.settle()
    assert problems(world) == []


def file_of(world: World) -> StoredObject:
    """The dead-letter file of the only batch."""
    (first,) = world.ledger.last_batches(1)
    return world.object_store.objects[dead_letters_key(first.batch.id)]


def altered(world: World, **fields: str) -> StoredObject:
    """The file with its first line alone, and fields of that changed."""
    kept = file_of(world)
    line = json.loads(kept.body.splitlines()[0]) | fields
    return replace(kept, body=json.dumps(line).encode() + b"\n")


def without_digest(world: World) -> None:
    """The only record, as an older version wrote it."""
    (first,) = world.ledger.last_batches(1)
    world.ledger._records[first.batch.id] = replace(first, dead_letters_digest=None)


def base64_of(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.parametrize("folder", ["dead-letters/backup/", "dead-letters/2024/01/15/13/"])
def test_a_copy_of_a_file_is_neither_listed_nor_put_through(folder: str) -> None:
    world = a_world()
    kept = file_of(world)
    copy = replace(kept, key=folder + kept.key.rpartition("/")[2])
    world.object_store.put([copy])
    assert [each.key for each in list_dead_letters(DeadLetterFilter(), world.ports)] == [kept.key] * 3
    done = again(world)
    assert (done.stored, done.already_redriven, len(done.still_rejected)) == (2, 0, 1)
    world.object_store.delete([copy.key])
    assert problems(world) == []


@pytest.mark.parametrize(
    "fields",
    [{"value": base64_of(event("a", productId="another"))}, {"source": f"{TOPIC}/0/1", "value": base64_of(event("b"))}],
    ids=["another payload", "the source of a stored record"],
)
def test_a_file_that_was_altered_is_not_believed_and_the_message_says_what_to_do(fields: dict[str, str]) -> None:
    world = a_world()
    kept, (first,) = file_of(world), world.ledger.last_batches(1)
    changed = altered(world, **fields)
    world.object_store.put([changed])
    said = f"{kept.key} is not the file .* expected a file of SHA-256 {sha256_hex(kept.body)}, found SHA-256 {sha256_hex(changed.body)}. .* versions"
    with pytest.raises(InconsistentState, match=said):
        again(world)
    with pytest.raises(InconsistentState, match=said):
        list(list_dead_letters(DeadLetterFilter(batch_id=first.batch.id), world.ports))
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, dead_letters=3)
    world.object_store.put([kept])
    assert again(world).stored == 2
    assert problems(world) == []


def test_a_file_altered_after_the_take_stops_whoever_reads_it_again() -> None:
    world = a_world()
    kept = file_of(world)
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing_at("begin_batch")), conduct())
    world.object_store.put([altered(world, value=base64_of(event("a", productId="another")))])
    with pytest.raises(InconsistentState, match="versions"):
        world.run()
    assert world.ids(["a"]) == {}
    world.object_store.put([kept])
    world.settle()
    assert problems(world) == []


def test_a_record_without_digest_is_believed_as_far_as_its_ranges_and_no_source_twice() -> None:
    world = a_world()
    without_digest(world)
    kept = file_of(world)
    world.object_store.put([altered(world, source=f"{TOPIC}/0/4")])
    with pytest.raises(InconsistentState, match=r"expected sources of ProductDeleted/0\[0,4\), each once, found ProductDeleted/0/4"):
        again(world)
    world.object_store.put([replace(kept, body=kept.body + kept.body.splitlines(keepends=True)[0])])
    with pytest.raises(InconsistentState, match="each once, found ProductDeleted/0/0"):
        again(world)
    world.object_store.put([kept])
    assert again(world).stored == 2
    assert problems(world) == []


def test_a_pending_redrive_of_a_file_that_no_record_names_is_not_believed() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing_at("begin_batch")), conduct())
    (pending,) = world.ledger.snapshot().pending.values()
    copy = "dead-letters/backup/" + file_of(world).key.rpartition("/")[2]
    world.object_store.put([replace(file_of(world), key=copy)])
    with pytest.raises(InconsistentState, match=f"{copy} is no file of a closed batch"):
        read_batch_dead_letters(replace(pending, redrive_keys=(copy,)), world.ports)


def test_many_are_put_through_in_batches_that_one_transaction_holds() -> None:
    world = World()
    world.create()
    world.produce(*(large(f"e{number}") for number in range(45)))
    world.settle(conduct(validation_rules=STRICT))
    done = again(world)
    assert [record.tally.stored for record in done.closed] == [20, 20, 5]
    assert problems(world) == []


CALLS = list(range(30))


@pytest.mark.parametrize("number", CALLS)
@pytest.mark.parametrize("effect", [False, True], ids=["before it took effect", "after it took effect"])
def test_a_redrive_that_ends_at_any_call_is_finished_by_whoever_comes_next(number: int, effect: bool) -> None:
    """A run that still has the old rules comes first: it may finish what is staged, and must not count anything twice."""
    world = a_world()
    try:
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing(number, effect, lambda _: Crashed())), conduct("dies"))
    except Crashed:
        pass
    world.settle(conduct(validation_rules=STRICT))
    assert problems(world) == []
    again(world)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)


def test_a_redrive_that_a_run_with_other_rules_reads_again_keeps_the_rules_under_which_it_was_taken() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing_at("begin_batch")), conduct())
    world.settle(conduct(validation_rules=STRICT))
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)


def test_a_redrive_without_kept_rules_that_stricter_rules_read_again_leaves_the_letters_as_they_are() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing_at("begin_batch")), conduct())
    remove_rules(world)
    world.settle(conduct(validation_rules=STRICT))
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, dead_letters=3)
    assert world.ledger.counters()["reason.too_large"] == 2


def test_of_two_redrives_at_once_one_is_refused() -> None:
    world = a_world()

    def door(call: Call, perform: Any) -> Any:
        if call.method == "begin_batch":
            again(world)
        return perform()

    with pytest.raises(Superseded, match="another redrive took turn 0 first"):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, door), conduct("second"))
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)


def test_plans_leave_a_redrive_alone_while_it_shows_a_sign_of_life() -> None:
    world = a_world()
    world.ledger.renew_lease(Lease("redrive", -1, world.clock.now()))
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing_at("begin_batch")), conduct("redrive"))
    assert not any(world.plan().plans)
    world.clock.advance(timedelta(seconds=61))
    (plan,) = world.plan().plans
    assert len(plan.pending_batch_ids) == 1
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)


def test_a_redrive_whose_run_never_had_a_lease_is_finished_by_the_lane_it_falls_to() -> None:
    world = a_world()
    world.policy = PlanningPolicy(lanes=3)
    world.clock.advance(timedelta(seconds=1))
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing_at("mark_staged")), conduct())
    assert sum(len(plan.pending_batch_ids) for plan in world.plan().plans) == 1
    world.settle()
    assert problems(world) == []
    assert [record.batch.kind for record in world.ledger.last_batches(1)] == [BatchKind.REDRIVE]


def test_letters_that_are_gone_stop_a_redrive_that_needs_them_and_nothing_else() -> None:
    world = a_world()
    (first,) = world.ledger.last_batches(1)
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing_at("begin_batch")), conduct())
    kept = world.object_store.objects.pop(dead_letters_key(first.batch.id))
    world.produce(event("later"))
    with pytest.raises(InconsistentState, match=f"{kept.key} is not the file that batch {first.batch.id} wrote: .* found no object"):
        world.run()
    assert set(world.ids(["later"])) == {"later"}
    world.object_store.put([kept])
    world.settle()
    assert problems(world) == []


def test_a_store_that_is_down_fails_a_redrive_and_changes_no_count() -> None:
    world = a_world()
    with pytest.raises(Unavailable):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, failing_with("claim")), conduct())
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, dead_letters=3)
    again(world)
    assert problems(world) == []


def failing_with(method: str) -> Any:
    def door(call: Call, perform: Any) -> Any:
        if call.method == method:
            raise Unavailable("the table is down")
        return perform()

    return door
