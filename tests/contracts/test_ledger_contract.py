"""What every ledger promises: the memory double, moto, and a real DynamoDB."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ArchiveFile, ArchiveRevision, ExpiredData, with_expired_event_json, with_expired_rows
from analytics_defs.core.ledger import (
    REDRIVE_CHECKPOINT,
    REDRIVE_LANE,
    Checkpoint,
    ClosedRange,
    Gap,
    GapReason,
    Lease,
    LedgerSnapshot,
    OutcomeCounts,
    PlatformId,
    TopicState,
)
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.errors import InconsistentState
from analytics_defs.ports import Ledger
from tests.contracts.ledger_fixtures import HOUR, LEDGERS, ONE, TIME, TWO, all_stored, batch, close, redrive, redriven_record

PARALLEL = ["memory", pytest.param("real", marks=pytest.mark.real)]


@pytest.fixture(params=["memory", "moto", pytest.param("real", marks=pytest.mark.real)])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    with LEDGERS[request.param]() as found:
        yield found


def test_an_empty_ledger_answers_every_question(ledger: Ledger) -> None:
    unknown = batch(Range(ONE, 0, 1)).id
    assert ledger.snapshot() == LedgerSnapshot()
    assert (ledger.pending_batch(unknown), ledger.batch_record(unknown), ledger.closed_range_at(Source(ONE, 0))) == (None, None, None)
    assert (ledger.closed_ranges_after(ONE, 0, 9), ledger.last_batches(9), list(ledger.batches_of_day("2024-01-15"))) == ([], [], [])
    assert (ledger.batches_of_hour(HOUR), ledger.redriven_by([Source(ONE, 0)]), ledger.redriven_by([])) == ([], {}, {})
    assert (ledger.counters(), ledger.hourly_counters(HOUR, HOUR)) == ({}, {})


# The seal.


def test_the_first_to_seal_a_ledger_decides_whose_it_is_and_the_first_mark_which_bucket_it_has(ledger: Ledger) -> None:
    first, second = PlatformId("first", ("RecentEvents", "EventAggregates")), PlatformId("second", ("Others",), "elsewhere")
    assert ledger.snapshot().platform_id is None
    assert ledger.register_platform_id(first) == first
    assert ledger.register_platform_id(second) == ledger.register_platform_id(first) == ledger.snapshot().platform_id == first
    marked = replace(first, bucket_id="bucket one")
    assert ledger.register_platform_id(marked) == marked
    assert (
        ledger.register_platform_id(replace(first, bucket_id="bucket two"))
        == ledger.register_platform_id(first)
        == ledger.snapshot().platform_id
        == marked
    )
    assert ledger.snapshot() == LedgerSnapshot(platform_id=marked)


# Topics.


def test_the_first_to_open_a_topic_decides_where_its_account_begins(ledger: Ledger) -> None:
    first, second = TopicState("ProductDeleted", 0, "id-1", {0: 5, 1: 0}), TopicState("ProductDeleted", 0, None, {0: 9})
    assert ledger.open_topic(first) == first
    assert ledger.open_topic(second) == first
    assert ledger.open_topic(first) == first
    assert ledger.snapshot().topics == {"ProductDeleted": first}


def test_a_topic_without_id_and_partitions_comes_back_as_it_was(ledger: Ledger) -> None:
    bare = TopicState("a.b_c-d", 0, None, {})
    assert ledger.open_topic(bare) == bare
    assert ledger.snapshot().topics == {"a.b_c-d": bare}


def test_a_generation_follows_only_the_one_before_it(ledger: Ledger) -> None:
    lives = [TopicState("ProductDeleted", generation, f"id-{generation}", {0: generation}) for generation in range(3)]
    ledger.open_topic(lives[0])
    assert ledger.open_topic(lives[2]) == lives[0]
    assert ledger.open_topic(lives[1]) == lives[1]
    assert ledger.open_topic(lives[0]) == lives[1]
    assert ledger.open_topic(lives[2]) == lives[2]
    assert ledger.snapshot().topics == {"ProductDeleted": lives[2]}


# Take.


def test_a_take_makes_its_heads_pending_and_shows_the_batch_as_it_was_taken(ledger: Ledger) -> None:
    taken = batch(Range(ONE, 0, 10), Range(TWO, 7, 9))
    assert ledger.begin_batch(taken)
    assert ledger.snapshot() == LedgerSnapshot(
        {}, {ONE: Checkpoint(ONE, 0, 0, taken.id), TWO: Checkpoint(TWO, 7, 7, taken.id)}, {taken.id: taken}
    )
    assert ledger.pending_batch(taken.id) == taken


def test_a_redrive_is_pending_with_all_that_it_needs(ledger: Ledger) -> None:
    taken = redrive(0, Source(ONE, 3), Source(TopicPartition("Gone", 2, 0), 4))
    assert ledger.begin_batch(taken)
    assert ledger.pending_batch(taken.id) == taken
    assert ledger.snapshot().checkpoints == {REDRIVE_CHECKPOINT: Checkpoint(REDRIVE_CHECKPOINT, 0, 0, taken.id)}


def test_a_take_is_refused_whole_where_one_of_its_heads_is_pending(ledger: Ledger) -> None:
    ledger.begin_batch(batch(Range(ONE, 0, 10)))
    before = ledger.snapshot()
    assert not ledger.begin_batch(batch(Range(ONE, 0, 10), Range(TWO, 0, 5), minute=1))
    assert ledger.snapshot() == before


@pytest.mark.parametrize("start", [0, 9, 11])
def test_a_take_is_refused_where_it_does_not_start_at_the_head(ledger: Ledger, start: int) -> None:
    close(ledger, batch(Range(ONE, 0, 10)))
    before = ledger.snapshot()
    assert not ledger.begin_batch(batch(Range(ONE, start, 20), minute=1))
    assert ledger.snapshot() == before


def test_a_run_may_repeat_its_take_and_no_other_run_may(ledger: Ledger) -> None:
    taken = batch(Range(ONE, 0, 10))
    assert ledger.begin_batch(taken)
    assert ledger.begin_batch(taken)
    assert not ledger.begin_batch(replace(taken, run_id="run-2"))
    assert ledger.pending_batch(taken.id) == taken


def test_a_closed_batch_is_not_taken_again(ledger: Ledger) -> None:
    taken = batch(Range(ONE, 0, 10))
    close(ledger, taken)
    assert not ledger.begin_batch(taken)


# Stage.


def test_the_first_digest_noted_decides(ledger: Ledger) -> None:
    taken = batch(Range(ONE, 0, 10))
    ledger.begin_batch(taken)
    assert ledger.mark_staged(taken.id, "aa")
    assert ledger.mark_staged(taken.id, "aa")
    with pytest.raises(InconsistentState, match=taken.id):
        ledger.mark_staged(taken.id, "bb")
    assert ledger.pending_batch(taken.id) == replace(taken, staged="aa")
    assert ledger.snapshot().pending == {taken.id: replace(taken, staged="aa")}


def test_a_batch_that_is_not_pending_is_not_marked(ledger: Ledger) -> None:
    taken = batch(Range(ONE, 0, 10))
    assert not ledger.mark_staged(taken.id, "aa")
    close(ledger, taken)
    assert not ledger.mark_staged(taken.id, "aa")
    assert ledger.pending_batch(taken.id) is None
    assert ledger.snapshot().pending == {}


# Close.


def test_a_close_moves_heads_outcomes_counters_and_marks_together(ledger: Ledger) -> None:
    taken = batch(Range(ONE, 0, 10), Range(TWO, 7, 9), lane=3)
    tallies = (OutcomeCounts(stored=4, duplicates=2, dead_letters=1, tombstones=1, gaps=1, lost=1), OutcomeCounts(stored=2))
    types, hours = (
        {"ProductDeleted": 5, "ProductCreated": 1},
        {HOUR: {"ProductDeleted": 4}, "2024-01-15T11": {"ProductDeleted": 1, "ProductCreated": 1}},
    )
    record = all_stored(taken, tallies=tallies, types=types, hours=hours, reasons={"schema": 1}, duration_ms=5, bytes=77)
    assert ledger.begin_batch(taken)
    assert ledger.close_batch(record)
    assert ledger.snapshot() == LedgerSnapshot(
        {}, {ONE: Checkpoint(ONE, 0, 10, None, tallies[0]), TWO: Checkpoint(TWO, 7, 9, None, tallies[1])}
    )
    assert ledger.batch_record(taken.id) == record
    counted = {
        "events": 6,
        "type.ProductDeleted": 5,
        "type.ProductCreated": 1,
        "reason.schema": 1,
        "batches": 1,
        "duration_ms": 5,
        "bytes": 77,
    }
    assert ledger.counters() == counted | {"duplicates": 2, "dead_letters": 1, "tombstones": 1, "gaps": 1, "lost": 1}
    assert ledger.hourly_counters(HOUR, "2024-01-15T11") == {
        HOUR: {"events": 4, "type.ProductDeleted": 4},
        "2024-01-15T11": {"events": 2, "type.ProductDeleted": 1, "type.ProductCreated": 1},
    }
    assert [ledger.batches_of_hour(each) for each in (HOUR, "2024-01-15T11", "2024-01-15T12")] == [[taken.id], [taken.id], []]


def test_everything_in_a_record_comes_back_equal(ledger: Ledger) -> None:
    taken = replace(batch(Range(ONE, 100, 200)), staged="digest")
    record = all_stored(
        taken,
        tallies=(OutcomeCounts(stored=1, gaps=90, lost=5, tombstones=2),),
        gaps=(
            Gap(Range(ONE, 110, 120), GapReason.ABORTED),
            Gap(Range(ONE, 120, 121), GapReason.CONTROL),
            Gap(Range(ONE, 121, 200), GapReason.COMPACTED),
        ),
        lost=(Range(ONE, 100, 105),),
        tombstones=(Source(ONE, 106), Source(ONE, 109)),
        unaccounted=(Range(ONE, 107, 108),),
        parts={HOUR: "parquet/part"},
        dead_letters_key="dead-letters/x",
        dead_letters_digest="aa",
        duplicates_key="duplicates/x",
        duplicates_digest="bb",
        steps_ms={"event json": 3, "read": 0},
        duration_ms=9,
        bytes=1,
        record_to_close_ms=2**40,
        code_version="1.2.3",
    )
    ledger.begin_batch(replace(taken, staged=None))
    assert ledger.close_batch(record)
    assert ledger.batch_record(taken.id) == record


def test_a_close_repeated_is_refused_and_counts_nothing_twice(ledger: Ledger) -> None:
    record = close(ledger, batch(Range(ONE, 0, 10)))
    before = (ledger.snapshot(), ledger.counters(), ledger.hourly_counters(HOUR, HOUR))
    assert not ledger.close_batch(record)
    assert not ledger.close_batch(replace(record, code_version="another executor"))
    assert (ledger.snapshot(), ledger.counters(), ledger.hourly_counters(HOUR, HOUR)) == before
    assert ledger.batch_record(record.batch.id) == record


def test_the_outcomes_of_a_head_add_up_to_what_it_has_passed(ledger: Ledger) -> None:
    for number in range(4):
        close(ledger, batch(Range(ONE, 10 * number, 10 * number + 10), minute=number), tallies=(OutcomeCounts(stored=7, gaps=3),))
    assert ledger.snapshot().checkpoints == {ONE: Checkpoint(ONE, 0, 40, None, OutcomeCounts(stored=28, gaps=12))}
    assert ledger.snapshot().checkpoints[ONE].unaccounted == 0


def test_a_full_batch_fits_one_transaction(ledger: Ledger) -> None:
    taken = batch(*(Range(TopicPartition("ProductDeleted", 0, number), 0, 160) for number in range(24)))
    hours = {f"2024-01-15T{number:02d}": {"ProductDeleted": 160} for number in range(24)}
    close(ledger, taken, types={"ProductDeleted": 24 * 160}, hours=hours)
    assert ledger.counters()["events"] == 24 * 160
    assert ledger.hourly_counters("2024-01-15T00", "2024-01-15T23").keys() == hours.keys()
    assert all(head.next_offset == 160 and head.unaccounted == 0 for head in ledger.snapshot().checkpoints.values())


# Questions about closed batches.


def test_the_range_that_holds_an_offset_is_found_and_nothing_else(ledger: Ledger) -> None:
    first = close(ledger, batch(Range(ONE, 5, 10), Range(TWO, 0, 1)))
    second = close(ledger, batch(Range(ONE, 10, 1_000), minute=1))
    found = {offset: ledger.closed_range_at(Source(ONE, offset)) for offset in (4, 5, 9, 10, 999, 1_000)}
    ranges = [
        ClosedRange(Range(ONE, 5, 10), first.batch.id, OutcomeCounts(stored=5)),
        ClosedRange(Range(ONE, 10, 1_000), second.batch.id, OutcomeCounts(stored=990)),
    ]
    assert found == {4: None, 5: ranges[0], 9: ranges[0], 10: ranges[1], 999: ranges[1], 1_000: None}
    assert ledger.closed_range_at(Source(replace(ONE, incarnation=1), 5)) is None


def test_ranges_come_in_the_order_of_their_offsets(ledger: Ledger) -> None:
    for number in range(12):
        close(ledger, batch(Range(ONE, number, number + 1), minute=number))
    assert [each.range.start for each in ledger.closed_ranges_after(ONE, 0, 99)] == list(range(12))
    assert [each.range.start for each in ledger.closed_ranges_after(ONE, 9, 99)] == [9, 10, 11]
    assert [each.range.start for each in ledger.closed_ranges_after(ONE, 3, 2)] == [3, 4]


def test_batches_are_found_by_time_across_days(ledger: Ledger) -> None:
    minutes = [0, 5, 24 * 60, 45 * 24 * 60, 400 * 24 * 60]
    records = [close(ledger, batch(Range(ONE, number, number + 1), minute=minute)) for number, minute in enumerate(minutes)]
    assert ledger.last_batches(99) == records[::-1]
    assert ledger.last_batches(2) == records[:-3:-1]
    assert list(ledger.batches_of_day("2024-01-15")) == records[:2]
    assert list(ledger.batches_of_day("2024-01-16")) == [records[2]]
    assert list(ledger.batches_of_day("2024-01-17")) == []


def test_the_batches_of_an_hour_come_in_order(ledger: Ledger) -> None:
    taken = [batch(Range(partition, 0, 1), minute=minute) for partition, minute in ((ONE, 2), (TWO, 1))]
    for each in taken:
        close(ledger, each)
    assert ledger.batches_of_hour(HOUR) == sorted(each.id for each in taken)


# Counters.


def test_counters_of_all_lanes_are_summed(ledger: Ledger) -> None:
    for lane, partition in enumerate((ONE, TWO)):
        close(ledger, batch(Range(partition, 0, 10 + lane), lane=lane))
        close(ledger, batch(Range(partition, 10 + lane, 20), lane=lane, minute=1))
    assert ledger.counters() == {"events": 40, "type.ProductDeleted": 40, "batches": 4}
    assert ledger.hourly_counters(HOUR, HOUR) == {HOUR: {"events": 40, "type.ProductDeleted": 40}}


def test_hours_are_those_from_the_first_to_the_last(ledger: Ledger) -> None:
    hours = [f"2024-01-15T{number:02d}" for number in (8, 9, 10, 11)]
    for number, hour in enumerate(hours):
        close(ledger, batch(Range(ONE, number, number + 1), minute=number, lane=number * 7), hour=hour)
    assert list(ledger.hourly_counters(hours[1], hours[2])) == hours[1:3]
    assert ledger.hourly_counters("2024-01-14T00", "2024-01-14T23") == {}


# Redrives.


def with_dead_letters(ledger: Ledger) -> None:
    tallies, reasons = (OutcomeCounts(stored=6, dead_letters=4),), {"schema": 4}
    close(
        ledger, batch(Range(ONE, 0, 10)), tallies=tallies, types={"ProductDeleted": 6}, hours={HOUR: {"ProductDeleted": 6}}, reasons=reasons
    )


def test_a_redriven_record_counts_once_under_its_new_outcome(ledger: Ledger) -> None:
    with_dead_letters(ledger)
    taken = redrive(0, Source(ONE, 3), Source(ONE, 4), Source(ONE, 8), minute=1)
    record = redriven_record(taken, o4="duplicates")
    assert ledger.begin_batch(taken)
    assert ledger.close_batch(record)
    head = ledger.snapshot().checkpoints[ONE]
    assert (head.next_offset, head.totals, head.unaccounted) == (10, OutcomeCounts(stored=8, duplicates=1, dead_letters=1), 0)
    assert ledger.snapshot().checkpoints[REDRIVE_CHECKPOINT].next_offset == 1
    counters = ledger.counters()
    assert [counters[name] for name in ("events", "dead_letters", "reason.schema", "batches")] == [8, 1, 1, 2]
    by_lane = ledger.counters_by_lane()
    assert [by_lane[lane]["dead_letters"] for lane in (0, REDRIVE_LANE)] == [4, -3]
    assert ledger.batch_record(taken.id) == record


def test_redriven_records_are_marked_with_their_batch(ledger: Ledger) -> None:
    with_dead_letters(ledger)
    taken = redrive(0, Source(ONE, 3), Source(ONE, 4), minute=1)
    ledger.begin_batch(taken)
    ledger.close_batch(redriven_record(taken))
    assert ledger.redriven_by([Source(ONE, number) for number in (2, 3, 3, 4)]) == {Source(ONE, 3): taken.id, Source(ONE, 4): taken.id}


def test_a_redrive_that_names_a_record_twice_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    with_dead_letters(ledger)
    taken = redrive(0, Source(ONE, 3), Source(ONE, 3), minute=1)
    assert ledger.begin_batch(taken)
    before = (ledger.snapshot(), ledger.counters(), ledger.hourly_counters(HOUR, HOUR))
    with pytest.raises(InconsistentState, match="ProductDeleted/1/3 redriven twice in one batch"):
        ledger.close_batch(redriven_record(taken))
    assert (ledger.snapshot(), ledger.counters(), ledger.hourly_counters(HOUR, HOUR)) == before
    assert (ledger.batch_record(taken.id), ledger.redriven_by([Source(ONE, 3)])) == (None, {})


def test_a_redrive_leaves_a_head_pending_that_is_pending(ledger: Ledger) -> None:
    with_dead_letters(ledger)
    meanwhile, taken = batch(Range(ONE, 10, 12), minute=2), redrive(0, Source(ONE, 3), minute=1)
    assert ledger.begin_batch(taken)
    assert ledger.begin_batch(meanwhile)
    assert ledger.close_batch(redriven_record(taken))
    assert ledger.snapshot().checkpoints[ONE] == Checkpoint(ONE, 0, 10, meanwhile.id, OutcomeCounts(stored=7, dead_letters=3))
    assert ledger.close_batch(all_stored(meanwhile))


def test_redrives_take_turns(ledger: Ledger) -> None:
    with_dead_letters(ledger)
    first, second = redrive(0, Source(ONE, 3), minute=1), redrive(0, Source(ONE, 4), minute=2)
    assert ledger.begin_batch(first)
    assert not ledger.begin_batch(second)


# Leases.


def test_a_lease_is_seen_until_it_is_released(ledger: Ledger) -> None:
    now = whole_milliseconds(datetime.now(UTC))  # an old one is what the table's time to live removes
    first, second = Lease("run-1", 0, now), Lease("run-2", 1, now)
    ledger.renew_lease(first)
    ledger.renew_lease(second)
    renewed = replace(first, renewed_at=now + timedelta(milliseconds=5_001))
    ledger.renew_lease(renewed)
    assert ledger.snapshot().leases == {"run-1": renewed, "run-2": second}
    ledger.release_lease("run-1")
    ledger.release_lease("run-1")
    assert ledger.snapshot().leases == {"run-2": second}


# At the same time.


@pytest.mark.parametrize("ledger", PARALLEL, indirect=True)
def test_of_many_who_take_the_same_range_at_once_one_gets_it(ledger: Ledger) -> None:
    rivals = [batch(Range(ONE, 0, 10), Range(TWO, 0, 5), minute=number, run_id=f"run-{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        taken = [each for each, got_it in zip(rivals, threads.map(ledger.begin_batch, rivals), strict=True) if got_it]
    assert len(taken) == 1
    assert {head.pending_batch_id for head in ledger.snapshot().checkpoints.values()} == {taken[0].id}


@pytest.mark.parametrize("ledger", PARALLEL, indirect=True)
def test_a_batch_closed_by_many_at_once_is_counted_once(ledger: Ledger) -> None:
    taken = batch(Range(ONE, 0, 10))
    ledger.begin_batch(taken)
    with ThreadPoolExecutor(8) as threads:
        closed = list(threads.map(ledger.close_batch, [all_stored(taken, code_version=str(number)) for number in range(8)]))
    assert sum(closed) == 1
    assert ledger.counters()["events"] == 10


# Revisions of archived hours.


def revision(number: int, batches: int = 2, rows: int = 10, hour: str = HOUR) -> ArchiveRevision:
    ids = tuple(sorted(batch(Range(ONE, each, each + 1), minute=each).id for each in range(batches)))
    files = (ArchiveFile(f"parquet/{hour}/archive-{number}.parquet", rows, 1234, "ab" * 32),)
    offsets = {"ProductDeleted/1": (0, 9), "Gone@2/0": (5, 5)}
    return ArchiveRevision(hour, number, files, ids, rows, "0f" * 16, {"ProductDeleted": rows}, offsets, TIME, TIME, TIME, rows, 3)


def test_an_hour_without_archive_has_no_revision(ledger: Ledger) -> None:
    assert ledger.latest_revision(HOUR) is None


def test_the_newest_revision_is_the_hours_and_comes_back_as_it_was_made(ledger: Ledger) -> None:
    for number in range(1, 13):
        assert ledger.put_revision(revision(number, batches=number)) == revision(number, batches=number)
        assert ledger.latest_revision(HOUR) == revision(number, batches=number)
    assert ledger.latest_revision("2024-01-15T11") is None


def test_a_number_that_is_taken_stays_with_whoever_was_first(ledger: Ledger) -> None:
    ledger.put_revision(revision(1))
    ledger.put_revision(revision(2, rows=20))
    assert ledger.put_revision(revision(1, rows=99)) == revision(1)
    assert ledger.put_revision(revision(2, rows=99)) == revision(2, rows=20)
    assert ledger.latest_revision(HOUR) == revision(2, rows=20)


def test_a_revision_follows_only_the_one_before_it(ledger: Ledger) -> None:
    with pytest.raises(InconsistentState):
        ledger.put_revision(revision(2))
    assert ledger.latest_revision(HOUR) is None


def test_what_retention_took_comes_back_with_its_revision(ledger: Ledger) -> None:
    at, through = TIME + timedelta(days=40, milliseconds=123), TIME + timedelta(days=1, milliseconds=456)
    before = revision(1, batches=3)
    frozen = with_expired_event_json(before, through, at)
    empty = with_expired_rows(frozen, at)
    assert [ledger.put_revision(each) for each in (before, frozen, empty)] == [before, frozen, empty]
    assert ledger.latest_revision(HOUR) == empty
    assert (empty.keys, empty.batches, empty.first, empty.rows) == ((), (), None, 0)
    assert empty.expired == ExpiredData(before.batches, before.rows, at, through, at)
    assert ledger.put_revision(replace(empty, number=2)) == frozen


def test_an_hour_of_ten_thousand_batches_fits_also_once_its_rows_are_taken(ledger: Ledger) -> None:
    ledger.put_revision(revision(1, batches=10_000))
    ledger.put_revision(with_expired_rows(revision(1, batches=10_000), TIME))
    found = ledger.latest_revision(HOUR)
    assert found
    assert len(found.expired.expired_batches) == 10_000


def test_dead_letters_are_taken_forward_only(ledger: Ledger) -> None:
    early, late = (DeadLetterExpiry(TIME + timedelta(days=days, milliseconds=7), TIME + timedelta(days=40)) for days in (1, 2))
    assert ledger.dead_letter_expiry() is None
    assert ledger.expire_dead_letters(early) == early
    assert ledger.dead_letter_expiry() == early
    assert ledger.expire_dead_letters(late) == late
    again = DeadLetterExpiry(late.expired_through, TIME + timedelta(days=50))
    assert ledger.expire_dead_letters(again) == ledger.expire_dead_letters(early) == ledger.dead_letter_expiry() == late


def test_an_hour_of_ten_thousand_batches_fits_into_its_revision(ledger: Ledger) -> None:
    large = revision(1, batches=10_000)
    ledger.put_revision(large)
    assert ledger.latest_revision(HOUR) == large
