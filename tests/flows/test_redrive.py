"""A redrive counts each dead letter once under its new outcome, whichever executor runs and however often."""

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
from tests.proof.interceptors import Call, Crashed, failing, intercept
from tests.proof.world import TOPIC, World, event, ingest_options

STRICT = ValidationRules(max_event_bytes=300)
BROKEN = b'{"id": NaN}'


def large(event_id: str, **fields: Any) -> bytes:
    return event(event_id, padding="." * 400, **fields)


def a_world() -> World:
    """Two events that were too large for the first rules, one invalid record, and one stored event."""
    world = World()
    world.create()
    world.produce(large("a"), event("fine"), BROKEN, large("b"))
    world.settle(ingest_options(validation_rules=STRICT))
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, dead_letters=3)
    return world


def redrive(world: World, selection: DeadLetterFilter = DeadLetterFilter(), **changes: Any) -> RedriveResult:  # noqa: B008 - a value
    world.clock.advance(timedelta(seconds=1))
    return redrive_dead_letters(selection, world.ports, ingest_options("redrive", **changes))


def test_a_redriven_event_is_stored_under_its_source_and_counted_once() -> None:
    world = a_world()
    done = redrive(world)
    assert (done.stored, done.duplicates, done.already_redriven) == (2, 0, 0)
    assert done.still_rejected == [(world.source(2), "not_json")]
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)
    assert world.ids(["a", "b"]) == {"a": world.source(0), "b": world.source(3)}
    assert {name: count for name, count in world.ledger.counters().items() if name.startswith("reason.") and count} == {
        "reason.not_json": 1
    }


def test_the_trace_shows_the_rejection_and_the_redrive() -> None:
    world = a_world()
    redrive(world)
    trace = trace_record(str(world.source(0)), world.ports)
    assert trace.outcome is RecordOutcome.DEAD_LETTER
    assert trace.detail.startswith("too_large")
    assert trace.redrive is not None
    assert (trace.redrive.outcome, trace.redrive.event_id, trace.redrive.item) == (RecordOutcome.STORED, "a", "held")
    rejected = trace_record(str(world.source(2)), world.ports)
    assert (rejected.outcome, rejected.redrive) == (RecordOutcome.DEAD_LETTER, None)


def test_a_second_redrive_changes_nothing() -> None:
    world = a_world()
    redrive(world)
    before = dict(world.object_store.objects), world.ledger.counters()
    done = redrive(world)
    assert (done.closed, done.already_redriven) == ([], 2)
    assert (world.object_store.objects, world.ledger.counters()) == before


def test_a_redriven_event_whose_id_is_owned_by_now_becomes_a_duplicate() -> None:
    world = a_world()
    owner = world.produce(event("a", payload="small"))
    world.settle()
    done = redrive(world)
    assert (done.stored, done.duplicates) == (1, 1)
    assert problems(world) == []
    trace = trace_record(str(world.source(0)), world.ports)
    assert trace.redrive is not None
    assert (trace.redrive.outcome, trace.redrive.original_source) == (RecordOutcome.DUPLICATE, owner)


def test_two_dead_letters_with_one_id_become_one_event_and_one_duplicate() -> None:
    world = World()
    world.create()
    world.produce(large("a"), large("a", payload="other"))
    world.settle(ingest_options(validation_rules=STRICT))
    redrive(world)
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, duplicates=1)


def test_rules_that_still_reject_everything_change_nothing() -> None:
    world = a_world()
    done = redrive(world, validation_rules=STRICT)
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
def test_only_selected_dead_letters_are_redriven(selection: DeadLetterFilter, stored: int) -> None:
    assert redrive(a_world(), selection).stored == stored


@pytest.mark.parametrize(("hour", "stored"), [("2024-01-15T12", 2), ("2024-01-15T13", 0)])
def test_a_batch_and_an_hour_must_both_match(hour: str, stored: int) -> None:
    world = a_world()
    (record,) = world.ledger.last_batches(1)
    assert redrive(world, DeadLetterFilter(batch_id=record.batch.id, hour=hour)).stored == stored


def test_a_selection_by_batch_lists_and_redrives_that_batch_only() -> None:
    world = a_world()
    (first,) = world.ledger.last_batches(1)
    world.produce(large("c"))
    world.settle(ingest_options(validation_rules=STRICT))
    assert [stored.batch_id for stored in list_dead_letters(DeadLetterFilter(batch_id=first.batch.id), world.ports)] == [first.batch.id] * 3
    assert redrive(world, DeadLetterFilter(batch_id=first.batch.id)).stored == 2
    assert set(world.ids(["a", "b", "c"])) == {"a", "b"}


@pytest.mark.parametrize(
    "read",
    [
        lambda selection, ports: list(list_dead_letters(selection, ports)),
        lambda selection, ports: redrive_dead_letters(selection, ports, ingest_options()),
    ],
)
def test_a_missing_dead_letter_file_is_an_error(read: Callable[[DeadLetterFilter, Ports], object]) -> None:
    world = a_world()
    (first,) = world.ledger.last_batches(1)
    world.object_store.delete([dead_letters_key(first.batch.id)])
    with pytest.raises(InconsistentState, match=f"expected a file of SHA-256 {first.dead_letters_digest}, found no object"):
        read(DeadLetterFilter(batch_id=first.batch.id), world.ports)


def test_dead_letters_of_a_pending_batch_are_not_redriven() -> None:
    world = World()
    world.create()
    world.produce(large("a"))
    with pytest.raises(Crashed):
        world.run(by=ingest_options(validation_rules=STRICT), ports=intercept(world.ports, failing_at("put")))
    assert any(key.startswith("dead-letters/") for key in world.object_store.objects)
    assert redrive(world).closed == []
    world.settle()
    assert problems(world) == []


def file_of(world: World) -> StoredObject:
    """Return the dead-letter file of the only batch."""
    (first,) = world.ledger.last_batches(1)
    return world.object_store.objects[dead_letters_key(first.batch.id)]


def altered(world: World, **fields: str) -> StoredObject:
    """Return the file with only its first line, and with changed fields in that line."""
    kept = file_of(world)
    line = json.loads(kept.body.splitlines()[0]) | fields
    return replace(kept, body=json.dumps(line).encode() + b"\n")


def without_digest(world: World) -> None:
    """Remove the digest from the only record, as an older version wrote it."""
    (first,) = world.ledger.last_batches(1)
    world.ledger._records[first.batch.id] = replace(first, dead_letters_digest=None)


def base64_of(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.parametrize("folder", ["dead-letters/backup/", "dead-letters/2024/01/15/13/"])
def test_a_copy_of_a_dead_letter_file_is_neither_listed_nor_redriven(folder: str) -> None:
    world = a_world()
    kept = file_of(world)
    copy = replace(kept, key=folder + kept.key.rpartition("/")[2])
    world.object_store.put([copy])
    assert [stored.key for stored in list_dead_letters(DeadLetterFilter(), world.ports)] == [kept.key] * 3
    done = redrive(world)
    assert (done.stored, done.already_redriven, len(done.still_rejected)) == (2, 0, 1)
    world.object_store.delete([copy.key])
    assert problems(world) == []


@pytest.mark.parametrize(
    "fields",
    [{"value": base64_of(event("a", productId="another"))}, {"source": f"{TOPIC}/0/1", "value": base64_of(event("b"))}],
    ids=["another payload", "the source of a stored record"],
)
def test_an_altered_dead_letter_file_is_refused_with_instructions(fields: dict[str, str]) -> None:
    world = a_world()
    kept, (first,) = file_of(world), world.ledger.last_batches(1)
    changed = altered(world, **fields)
    world.object_store.put([changed])
    digests = f"expected a file of SHA-256 {sha256_hex(kept.body)}, found SHA-256 {sha256_hex(changed.body)}"
    message = f"{kept.key} is not the file .* {digests}. .* versions"
    with pytest.raises(InconsistentState, match=message):
        redrive(world)
    with pytest.raises(InconsistentState, match=message):
        list(list_dead_letters(DeadLetterFilter(batch_id=first.batch.id), world.ports))
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, dead_letters=3)
    world.object_store.put([kept])
    assert redrive(world).stored == 2
    assert problems(world) == []


def test_a_dead_letter_whose_redriven_entry_is_missing_is_not_redriven_twice() -> None:
    world = World()
    world.create()
    world.produce(event("large", padding="." * 400))
    world.settle(ingest_options(validation_rules=ValidationRules(max_event_bytes=300)))
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("first")).stored == 1
    counters = dict(world.ledger.counters())
    world.ledger._redriven.clear()
    with pytest.raises(InconsistentState, match="the ledger has no redrive of it, found its item 'large' in RecentEvents"):
        redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("second"))
    assert world.ledger.counters() == counters


def test_a_file_altered_after_begin_stops_the_batch_that_reads_it() -> None:
    world = a_world()
    kept = file_of(world)
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, failing_at("begin_batch")), ingest_options())
    world.object_store.put([altered(world, value=base64_of(event("a", productId="another")))])
    with pytest.raises(InconsistentState, match="versions"):
        world.run()
    assert world.ids(["a"]) == {}
    world.object_store.put([kept])
    world.settle()
    assert problems(world) == []


def test_without_a_digest_sources_must_be_distinct_and_in_the_ranges() -> None:
    world = a_world()
    without_digest(world)
    kept = file_of(world)
    world.object_store.put([altered(world, source=f"{TOPIC}/0/4")])
    with pytest.raises(InconsistentState, match=r"expected sources of ProductDeleted/0\[0,4\), each once, found ProductDeleted/0/4"):
        redrive(world)
    world.object_store.put([replace(kept, body=kept.body + kept.body.splitlines(keepends=True)[0])])
    with pytest.raises(InconsistentState, match="each once, found ProductDeleted/0/0"):
        redrive(world)
    world.object_store.put([kept])
    assert redrive(world).stored == 2
    assert problems(world) == []


def test_a_pending_redrive_of_a_file_that_no_record_names_is_refused() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, failing_at("begin_batch")), ingest_options())
    (pending,) = world.ledger.snapshot().pending.values()
    copy = "dead-letters/backup/" + file_of(world).key.rpartition("/")[2]
    world.object_store.put([replace(file_of(world), key=copy)])
    with pytest.raises(InconsistentState, match=f"{copy} is no file of a closed batch"):
        read_batch_dead_letters(replace(pending, redrive_keys=(copy,)), world.ports)


def test_many_dead_letters_are_redriven_in_batches_of_twenty() -> None:
    world = World()
    world.create()
    world.produce(*(large(f"e{number}") for number in range(45)))
    world.settle(ingest_options(validation_rules=STRICT))
    done = redrive(world)
    assert [record.outcome_counts.stored for record in done.closed] == [20, 20, 5]
    assert problems(world) == []


CALLS = list(range(30))


@pytest.mark.parametrize("number", CALLS)
@pytest.mark.parametrize("effect", [False, True], ids=["before the effect", "after the effect"])
def test_a_redrive_that_crashed_at_any_call_is_finished_by_the_next_run(number: int, effect: bool) -> None:
    """A run with the old rules comes first. It may finish a staged batch, and must not count anything twice."""
    world = a_world()
    try:
        redrive_dead_letters(
            DeadLetterFilter(), intercept(world.ports, failing(number, effect, lambda _: Crashed())), ingest_options("crashed")
        )
    except Crashed:
        pass
    world.settle(ingest_options(validation_rules=STRICT))
    assert problems(world) == []
    redrive(world)
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)


def test_a_redrive_keeps_its_own_rules_when_another_run_rereads_it() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, failing_at("begin_batch")), ingest_options())
    world.settle(ingest_options(validation_rules=STRICT))
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)


def test_a_redrive_without_recorded_rules_uses_those_of_the_run() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, failing_at("begin_batch")), ingest_options())
    remove_rules(world)
    world.settle(ingest_options(validation_rules=STRICT))
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, dead_letters=3)
    assert world.ledger.counters()["reason.too_large"] == 2


def test_one_of_two_concurrent_redrives_is_refused() -> None:
    world = a_world()

    def redrive_first(call: Call, perform: Any) -> Any:
        if call.method == "begin_batch":
            redrive(world)
        return perform()

    with pytest.raises(Superseded, match="another redrive began first"):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, redrive_first), ingest_options("second"))
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)


def test_no_plan_contains_a_redrive_while_its_run_has_a_heartbeat() -> None:
    world = a_world()
    world.ledger.renew_lease(Lease("redrive", -1, world.clock.now()))
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, failing_at("begin_batch")), ingest_options("redrive"))
    assert not any(world.plan().plans)
    world.clock.advance(timedelta(seconds=61))
    (plan,) = world.plan().plans
    assert len(plan.pending_batch_ids) == 1
    world.settle()
    assert problems(world) == []
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=3, dead_letters=1)


def test_a_redrive_whose_run_never_had_a_lease_is_finished_by_one_lane() -> None:
    world = a_world()
    world.policy = PlanningPolicy(lanes=3)
    world.clock.advance(timedelta(seconds=1))
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, failing_at("mark_staged")), ingest_options())
    assert sum(len(plan.pending_batch_ids) for plan in world.plan().plans) == 1
    world.settle()
    assert problems(world) == []
    assert [record.batch.kind for record in world.ledger.last_batches(1)] == [BatchKind.REDRIVE]


def test_missing_dead_letters_stop_their_redrive_and_nothing_else() -> None:
    world = a_world()
    (first,) = world.ledger.last_batches(1)
    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, failing_at("begin_batch")), ingest_options())
    kept = world.object_store.objects.pop(dead_letters_key(first.batch.id))
    world.produce(event("later"))
    with pytest.raises(InconsistentState, match=f"{kept.key} is not the file that batch {first.batch.id} wrote: .* found no object"):
        world.run()
    assert set(world.ids(["later"])) == {"later"}
    world.object_store.put([kept])
    world.settle()
    assert problems(world) == []


def test_an_unavailable_store_fails_a_redrive_and_changes_no_count() -> None:
    world = a_world()
    with pytest.raises(Unavailable):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, failing_with("claim")), ingest_options())
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=1, dead_letters=3)
    redrive(world)
    assert problems(world) == []


def failing_with(method: str) -> Any:
    def interceptor(call: Call, perform: Any) -> Any:
        if call.method == method:
            raise Unavailable("the table is down")
        return perform()

    return interceptor
