"""The contract of the ledger, for the memory double, moto, and a real DynamoDB."""

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
from tests.contracts.ledger_fixtures import (
    HOUR,
    LEDGERS,
    ONE,
    TIME,
    TWO,
    all_stored,
    batch,
    close,
    delete_checkpoint,
    redrive,
    redriven_record,
    remove_entries,
    set_checkpoint_back,
)

PARALLEL = ["memory", pytest.param("real", marks=pytest.mark.real)]


@pytest.fixture(params=["memory", "moto", pytest.param("real", marks=pytest.mark.real)])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    with LEDGERS[request.param]() as ledger_under_test:
        yield ledger_under_test


def test_an_empty_ledger_answers_every_query(ledger: Ledger) -> None:
    unknown = batch(Range(ONE, 0, 1)).id
    assert ledger.snapshot() == LedgerSnapshot()
    assert (ledger.pending_batch(unknown), ledger.batch_record(unknown), ledger.closed_range_at(Source(ONE, 0))) == (None, None, None)
    assert (ledger.closed_ranges_after(ONE, 0, 9), ledger.last_batches(9), list(ledger.batches_of_day("2024-01-15"))) == ([], [], [])
    assert (ledger.batches_of_hour(HOUR), ledger.redriven_by([Source(ONE, 0)]), ledger.redriven_by([])) == ([], {}, {})
    assert (ledger.counters(), ledger.hourly_counters(HOUR, HOUR)) == ({}, {})


# The platform id.


def test_the_first_platform_id_and_the_first_bucket_id_win(ledger: Ledger) -> None:
    first, second = PlatformId("first", ("RecentEvents", "EventAggregates")), PlatformId("second", ("Others",), "elsewhere")
    assert ledger.snapshot().platform_id is None
    assert ledger.register_platform_id(first) == first
    assert ledger.register_platform_id(second) == ledger.register_platform_id(first) == ledger.snapshot().platform_id == first
    with_bucket = replace(first, bucket_id="bucket one")
    assert ledger.register_platform_id(with_bucket) == with_bucket
    assert (
        ledger.register_platform_id(replace(first, bucket_id="bucket two"))
        == ledger.register_platform_id(first)
        == ledger.snapshot().platform_id
        == with_bucket
    )
    assert ledger.snapshot() == LedgerSnapshot(platform_id=with_bucket)


def test_proven_buckets_are_added_to_the_platform_id_of_the_same_bucket_only(ledger: Ledger) -> None:
    registered = PlatformId("first", ("RecentEvents",), "bucket one")
    proven = replace(registered, proven_buckets=("http://a, bucket one", "http://b, bucket one"))
    assert ledger.register_platform_id(registered) == registered
    assert ledger.register_platform_id(proven) == proven
    assert ledger.register_platform_id(replace(proven, bucket_id="bucket two", proven_buckets=())) == proven
    assert ledger.register_platform_id(replace(proven, bucket_id=None, proven_buckets=())) == proven
    assert ledger.snapshot() == LedgerSnapshot(platform_id=proven)


# Topics.


def test_the_first_state_of_a_topic_wins(ledger: Ledger) -> None:
    first, second = TopicState("ProductDeleted", 0, "id-1", {0: 5, 1: 0}), TopicState("ProductDeleted", 0, None, {0: 9})
    assert ledger.open_topic(first) == first
    assert ledger.open_topic(second) == first
    assert ledger.open_topic(first) == first
    assert ledger.snapshot().topics == {"ProductDeleted": first}


def test_a_topic_without_id_and_partitions_comes_back_equal(ledger: Ledger) -> None:
    minimal = TopicState("a.b_c-d", 0, None, {})
    assert ledger.open_topic(minimal) == minimal
    assert ledger.snapshot().topics == {"a.b_c-d": minimal}


def test_an_incarnation_follows_only_the_one_before_it(ledger: Ledger) -> None:
    states = [TopicState("ProductDeleted", incarnation, f"id-{incarnation}", {0: incarnation}) for incarnation in range(3)]
    ledger.open_topic(states[0])
    assert ledger.open_topic(states[2]) == states[0]
    assert ledger.open_topic(states[1]) == states[1]
    assert ledger.open_topic(states[0]) == states[1]
    assert ledger.open_topic(states[2]) == states[2]
    assert ledger.snapshot().topics == {"ProductDeleted": states[2]}


# Begin.


def test_a_begin_makes_its_checkpoints_pending_and_stores_the_batch(ledger: Ledger) -> None:
    begun = batch(Range(ONE, 0, 10), Range(TWO, 7, 9))
    assert ledger.begin_batch(begun)
    assert ledger.snapshot() == LedgerSnapshot(
        {}, {ONE: Checkpoint(ONE, 0, 0, begun.id), TWO: Checkpoint(TWO, 7, 7, begun.id)}, {begun.id: begun}
    )
    assert ledger.pending_batch(begun.id) == begun


def test_a_pending_redrive_has_all_its_fields(ledger: Ledger) -> None:
    begun = redrive(0, Source(ONE, 3), Source(TopicPartition("Gone", 2, 0), 4))
    assert ledger.begin_batch(begun)
    assert ledger.pending_batch(begun.id) == begun
    assert ledger.snapshot().checkpoints == {REDRIVE_CHECKPOINT: Checkpoint(REDRIVE_CHECKPOINT, 0, 0, begun.id)}


def test_a_begin_is_refused_if_one_of_its_checkpoints_is_pending(ledger: Ledger) -> None:
    ledger.begin_batch(batch(Range(ONE, 0, 10)))
    before = ledger.snapshot()
    assert not ledger.begin_batch(batch(Range(ONE, 0, 10), Range(TWO, 0, 5), minute=1))
    assert ledger.snapshot() == before


@pytest.mark.parametrize("start", [0, 9, 11])
def test_a_begin_is_refused_if_it_does_not_start_at_the_checkpoint(ledger: Ledger, start: int) -> None:
    close(ledger, batch(Range(ONE, 0, 10)))
    before = ledger.snapshot()
    assert not ledger.begin_batch(batch(Range(ONE, start, 20), minute=1))
    assert ledger.snapshot() == before


def test_a_begin_may_be_retried_by_its_own_run_only(ledger: Ledger) -> None:
    begun = batch(Range(ONE, 0, 10))
    assert ledger.begin_batch(begun)
    assert ledger.begin_batch(begun)
    assert not ledger.begin_batch(replace(begun, run_id="run-2"))
    assert ledger.pending_batch(begun.id) == begun


def test_a_begin_is_refused_if_its_checkpoint_is_missing_beside_closed_ranges(ledger: Ledger) -> None:
    close(ledger, batch(Range(ONE, 0, 10)))
    delete_checkpoint(ledger, ONE)
    before = (ledger.snapshot(), ledger.counters())
    for range_ in (Range(ONE, 0, 12), Range(ONE, 10, 12)):
        with pytest.raises(InconsistentState, match=r"ProductDeleted/1: .* accounts for ProductDeleted/1\[0,10\), found none"):
            ledger.begin_batch(batch(Range(TWO, 0, 1), range_, minute=1))
    assert (ledger.snapshot(), ledger.counters()) == before
    assert ledger.begin_batch(batch(Range(TWO, 0, 1), minute=1))


def test_a_begin_is_refused_if_its_checkpoint_is_missing_beside_a_pending_batch(ledger: Ledger) -> None:
    pending = batch(Range(ONE, 0, 10))
    ledger.begin_batch(pending)
    delete_checkpoint(ledger, ONE)
    with pytest.raises(InconsistentState, match=f"pending batch {pending.id}"):
        ledger.begin_batch(batch(Range(ONE, 0, 10), minute=1))
    with pytest.raises(InconsistentState, match="is pending"):
        ledger.close_batch(all_stored(pending))
    assert (ledger.counters(), ledger.batch_record(pending.id)) == ({}, None)


def test_a_close_is_refused_if_a_range_of_its_offsets_is_closed(ledger: Ledger) -> None:
    first, again = batch(Range(ONE, 0, 10)), batch(Range(ONE, 0, 10), minute=1)
    close(ledger, first)
    set_checkpoint_back(ledger, ONE)
    assert ledger.begin_batch(again)
    with pytest.raises(InconsistentState, match="closed before"):
        ledger.close_batch(all_stored(again))
    assert ledger.counters()["events"] == 10
    assert ledger.closed_ranges_after(ONE, 0, 9) == [ClosedRange(Range(ONE, 0, 10), first.id, OutcomeCounts(stored=10))]


def test_a_closed_batch_cannot_be_begun_again(ledger: Ledger) -> None:
    begun = batch(Range(ONE, 0, 10))
    close(ledger, begun)
    assert not ledger.begin_batch(begun)


# Stage.


def test_the_first_staged_digest_wins(ledger: Ledger) -> None:
    begun = batch(Range(ONE, 0, 10))
    ledger.begin_batch(begun)
    assert ledger.mark_staged(begun.id, "aa")
    assert ledger.mark_staged(begun.id, "aa")
    with pytest.raises(InconsistentState, match=begun.id):
        ledger.mark_staged(begun.id, "bb")
    assert ledger.pending_batch(begun.id) == replace(begun, staged="aa")
    assert ledger.snapshot().pending == {begun.id: replace(begun, staged="aa")}


def test_a_batch_that_is_not_pending_cannot_be_marked_as_staged(ledger: Ledger) -> None:
    begun = batch(Range(ONE, 0, 10))
    assert not ledger.mark_staged(begun.id, "aa")
    close(ledger, begun)
    assert not ledger.mark_staged(begun.id, "aa")
    assert ledger.pending_batch(begun.id) is None
    assert ledger.snapshot().pending == {}


# Close.


def test_a_close_changes_checkpoints_outcomes_counters_and_hour_entries(ledger: Ledger) -> None:
    begun = batch(Range(ONE, 0, 10), Range(TWO, 7, 9), lane=3)
    range_outcome_counts = (OutcomeCounts(stored=4, duplicates=2, dead_letters=1, tombstones=1, gaps=1, lost=1), OutcomeCounts(stored=2))
    types, hours = (
        {"ProductDeleted": 5, "ProductCreated": 1},
        {HOUR: {"ProductDeleted": 4}, "2024-01-15T11": {"ProductDeleted": 1, "ProductCreated": 1}},
    )
    record = all_stored(
        begun, range_outcome_counts=range_outcome_counts, types=types, hours=hours, reasons={"schema": 1}, duration_ms=5, bytes=77
    )
    assert ledger.begin_batch(begun)
    assert ledger.close_batch(record)
    assert ledger.snapshot() == LedgerSnapshot(
        {}, {ONE: Checkpoint(ONE, 0, 10, None, range_outcome_counts[0]), TWO: Checkpoint(TWO, 7, 9, None, range_outcome_counts[1])}
    )
    assert ledger.batch_record(begun.id) == record
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
    assert [ledger.batches_of_hour(hour) for hour in (HOUR, "2024-01-15T11", "2024-01-15T12")] == [[begun.id], [begun.id], []]


def test_every_field_of_a_batch_record_comes_back_equal(ledger: Ledger) -> None:
    begun = replace(batch(Range(ONE, 100, 200)), staged="digest")
    record = all_stored(
        begun,
        range_outcome_counts=(OutcomeCounts(stored=1, gaps=90, lost=5, tombstones=2),),
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
        invalid_record_timestamps=3,
        code_version="1.2.3",
    )
    ledger.begin_batch(replace(begun, staged=None))
    assert ledger.close_batch(record)
    assert ledger.batch_record(begun.id) == record


def test_a_repeated_close_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    record = close(ledger, batch(Range(ONE, 0, 10)))
    before = (ledger.snapshot(), ledger.counters(), ledger.hourly_counters(HOUR, HOUR))
    assert not ledger.close_batch(record)
    assert not ledger.close_batch(replace(record, code_version="another executor"))
    assert (ledger.snapshot(), ledger.counters(), ledger.hourly_counters(HOUR, HOUR)) == before
    assert ledger.batch_record(record.batch.id) == record


def test_the_outcomes_of_a_checkpoint_sum_to_its_closed_offsets(ledger: Ledger) -> None:
    for number in range(4):
        close(
            ledger, batch(Range(ONE, 10 * number, 10 * number + 10), minute=number), range_outcome_counts=(OutcomeCounts(stored=7, gaps=3),)
        )
    assert ledger.snapshot().checkpoints == {ONE: Checkpoint(ONE, 0, 40, None, OutcomeCounts(stored=28, gaps=12))}
    assert ledger.snapshot().checkpoints[ONE].unaccounted == 0


def test_a_full_batch_fits_one_transaction(ledger: Ledger) -> None:
    begun = batch(*(Range(TopicPartition("ProductDeleted", 0, number), 0, 160) for number in range(24)))
    hours = {f"2024-01-15T{number:02d}": {"ProductDeleted": 160} for number in range(24)}
    close(ledger, begun, types={"ProductDeleted": 24 * 160}, hours=hours)
    assert ledger.counters()["events"] == 24 * 160
    assert ledger.hourly_counters("2024-01-15T00", "2024-01-15T23").keys() == hours.keys()
    assert all(checkpoint.next_offset == 160 and checkpoint.unaccounted == 0 for checkpoint in ledger.snapshot().checkpoints.values())


# Queries of closed batches.


def test_the_closed_range_of_an_offset_is_found(ledger: Ledger) -> None:
    first = close(ledger, batch(Range(ONE, 5, 10), Range(TWO, 0, 1)))
    second = close(ledger, batch(Range(ONE, 10, 1_000), minute=1))
    ranges_by_offset = {offset: ledger.closed_range_at(Source(ONE, offset)) for offset in (4, 5, 9, 10, 999, 1_000)}
    ranges = [
        ClosedRange(Range(ONE, 5, 10), first.batch.id, OutcomeCounts(stored=5)),
        ClosedRange(Range(ONE, 10, 1_000), second.batch.id, OutcomeCounts(stored=990)),
    ]
    assert ranges_by_offset == {4: None, 5: ranges[0], 9: ranges[0], 10: ranges[1], 999: ranges[1], 1_000: None}
    assert ledger.closed_range_at(Source(replace(ONE, incarnation=1), 5)) is None


def test_closed_ranges_are_read_in_offset_order(ledger: Ledger) -> None:
    for number in range(12):
        close(ledger, batch(Range(ONE, number, number + 1), minute=number))
    assert [closed_range.range.start for closed_range in ledger.closed_ranges_after(ONE, 0, 99)] == list(range(12))
    assert [closed_range.range.start for closed_range in ledger.closed_ranges_after(ONE, 9, 99)] == [9, 10, 11]
    assert [closed_range.range.start for closed_range in ledger.closed_ranges_after(ONE, 3, 2)] == [3, 4]


def test_batches_are_found_by_time_across_days(ledger: Ledger) -> None:
    minutes = [0, 5, 24 * 60, 45 * 24 * 60, 400 * 24 * 60]
    records = [close(ledger, batch(Range(ONE, number, number + 1), minute=minute)) for number, minute in enumerate(minutes)]
    assert ledger.last_batches(99) == records[::-1]
    assert ledger.last_batches(2) == records[:-3:-1]
    assert list(ledger.batches_of_day("2024-01-15")) == records[:2]
    assert list(ledger.batches_of_day("2024-01-16")) == [records[2]]
    assert list(ledger.batches_of_day("2024-01-17")) == []


def test_the_batches_of_an_hour_are_sorted_by_id(ledger: Ledger) -> None:
    closed_batches = [batch(Range(partition, 0, 1), minute=minute) for partition, minute in ((ONE, 2), (TWO, 1))]
    for closed_batch in closed_batches:
        close(ledger, closed_batch)
    assert ledger.batches_of_hour(HOUR) == sorted(closed_batch.id for closed_batch in closed_batches)


def test_removed_entries_of_a_record_are_named_and_written_again(ledger: Ledger) -> None:
    close_batch_with_dead_letters(ledger)
    begun = redrive(0, Source(ONE, 3), minute=1)
    record = redriven_record(begun)
    ledger.begin_batch(begun)
    ledger.close_batch(record)
    assert ledger.differing_entries(record) == []
    remove_entries(ledger, record)
    assert list(ledger.differing_entries(record)) == [
        "range#~redrive/0 00000000000000000001",
        f"hour#{HOUR} {begun.id}",
        "redriven#ProductDeleted/1 00000000000000000003",
    ]
    before = (ledger.snapshot(), ledger.counters(), ledger.batch_record(begun.id))
    for _ in range(2):
        ledger.restore_entries(record)
        assert ledger.differing_entries(record) == []
        assert ledger.closed_range_at(Source(REDRIVE_CHECKPOINT, 0)) == record.closed_ranges[0]
        assert begun.id in ledger.batches_of_hour(HOUR)
        assert ledger.redriven_by([Source(ONE, 3)]) == {Source(ONE, 3): begun.id}
    assert (ledger.snapshot(), ledger.counters(), ledger.batch_record(begun.id)) == before


# Counters.


def test_counters_of_all_lanes_are_summed(ledger: Ledger) -> None:
    for lane, partition in enumerate((ONE, TWO)):
        close(ledger, batch(Range(partition, 0, 10 + lane), lane=lane))
        close(ledger, batch(Range(partition, 10 + lane, 20), lane=lane, minute=1))
    assert ledger.counters() == {"events": 40, "type.ProductDeleted": 40, "batches": 4}
    assert ledger.hourly_counters(HOUR, HOUR) == {HOUR: {"events": 40, "type.ProductDeleted": 40}}


def test_hourly_counters_cover_the_first_to_the_last_hour(ledger: Ledger) -> None:
    hours = [f"2024-01-15T{number:02d}" for number in (8, 9, 10, 11)]
    for number, hour in enumerate(hours):
        close(ledger, batch(Range(ONE, number, number + 1), minute=number, lane=number * 7), hour=hour)
    assert list(ledger.hourly_counters(hours[1], hours[2])) == hours[1:3]
    assert ledger.hourly_counters("2024-01-14T00", "2024-01-14T23") == {}


# Redrives.


def close_batch_with_dead_letters(ledger: Ledger) -> None:
    range_outcome_counts, reasons = (OutcomeCounts(stored=6, dead_letters=4),), {"schema": 4}
    close(
        ledger,
        batch(Range(ONE, 0, 10)),
        range_outcome_counts=range_outcome_counts,
        types={"ProductDeleted": 6},
        hours={HOUR: {"ProductDeleted": 6}},
        reasons=reasons,
    )


def test_a_redriven_record_counts_under_its_new_outcome_only(ledger: Ledger) -> None:
    close_batch_with_dead_letters(ledger)
    begun = redrive(0, Source(ONE, 3), Source(ONE, 4), Source(ONE, 8), minute=1)
    record = redriven_record(begun, o4="duplicates")
    assert ledger.begin_batch(begun)
    assert ledger.close_batch(record)
    checkpoint = ledger.snapshot().checkpoints[ONE]
    assert (checkpoint.next_offset, checkpoint.totals, checkpoint.unaccounted) == (
        10,
        OutcomeCounts(stored=8, duplicates=1, dead_letters=1),
        0,
    )
    assert ledger.snapshot().checkpoints[REDRIVE_CHECKPOINT].next_offset == 1
    counters = ledger.counters()
    assert [counters[name] for name in ("events", "dead_letters", "reason.schema", "batches")] == [8, 1, 1, 2]
    by_lane = ledger.counters_by_lane()
    assert [by_lane[lane]["dead_letters"] for lane in (0, REDRIVE_LANE)] == [4, -3]
    assert ledger.batch_record(begun.id) == record


def test_redriven_records_lead_to_their_redrive_batch(ledger: Ledger) -> None:
    close_batch_with_dead_letters(ledger)
    begun = redrive(0, Source(ONE, 3), Source(ONE, 4), minute=1)
    ledger.begin_batch(begun)
    ledger.close_batch(redriven_record(begun))
    assert ledger.redriven_by([Source(ONE, number) for number in (2, 3, 3, 4)]) == {Source(ONE, 3): begun.id, Source(ONE, 4): begun.id}


def test_a_redrive_that_names_a_record_twice_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    close_batch_with_dead_letters(ledger)
    begun = redrive(0, Source(ONE, 3), Source(ONE, 3), minute=1)
    assert ledger.begin_batch(begun)
    before = (ledger.snapshot(), ledger.counters(), ledger.hourly_counters(HOUR, HOUR))
    with pytest.raises(InconsistentState, match="ProductDeleted/1/3 redriven twice in one batch"):
        ledger.close_batch(redriven_record(begun))
    assert (ledger.snapshot(), ledger.counters(), ledger.hourly_counters(HOUR, HOUR)) == before
    assert (ledger.batch_record(begun.id), ledger.redriven_by([Source(ONE, 3)])) == (None, {})


def test_a_redrive_keeps_a_pending_checkpoint_pending(ledger: Ledger) -> None:
    close_batch_with_dead_letters(ledger)
    meanwhile, begun = batch(Range(ONE, 10, 12), minute=2), redrive(0, Source(ONE, 3), minute=1)
    assert ledger.begin_batch(begun)
    assert ledger.begin_batch(meanwhile)
    assert ledger.close_batch(redriven_record(begun))
    assert ledger.snapshot().checkpoints[ONE] == Checkpoint(ONE, 0, 10, meanwhile.id, OutcomeCounts(stored=7, dead_letters=3))
    assert ledger.close_batch(all_stored(meanwhile))


def test_a_redrive_is_refused_while_another_is_pending(ledger: Ledger) -> None:
    close_batch_with_dead_letters(ledger)
    first, second = redrive(0, Source(ONE, 3), minute=1), redrive(0, Source(ONE, 4), minute=2)
    assert ledger.begin_batch(first)
    assert not ledger.begin_batch(second)


# Leases.


def test_a_lease_is_in_the_snapshot_until_it_is_released(ledger: Ledger) -> None:
    now = whole_milliseconds(datetime.now(UTC))  # the table's TTL would delete an old lease
    first, second = Lease("run-1", 0, now), Lease("run-2", 1, now)
    ledger.renew_lease(first)
    ledger.renew_lease(second)
    renewed = replace(first, renewed_at=now + timedelta(milliseconds=5_001))
    ledger.renew_lease(renewed)
    assert ledger.snapshot().leases == {"run-1": renewed, "run-2": second}
    ledger.release_lease("run-1")
    ledger.release_lease("run-1")
    assert ledger.snapshot().leases == {"run-2": second}


# Concurrency.


@pytest.mark.parametrize("ledger", PARALLEL, indirect=True)
def test_exactly_one_of_concurrent_begins_of_a_range_succeeds(ledger: Ledger) -> None:
    rivals = [batch(Range(ONE, 0, 10), Range(TWO, 0, 5), minute=number, run_id=f"run-{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        begun = [rival for rival, succeeded in zip(rivals, threads.map(ledger.begin_batch, rivals), strict=True) if succeeded]
    assert len(begun) == 1
    assert {checkpoint.pending_batch_id for checkpoint in ledger.snapshot().checkpoints.values()} == {begun[0].id}


@pytest.mark.parametrize("ledger", PARALLEL, indirect=True)
def test_a_batch_closed_concurrently_is_counted_once(ledger: Ledger) -> None:
    begun = batch(Range(ONE, 0, 10))
    ledger.begin_batch(begun)
    with ThreadPoolExecutor(8) as threads:
        closed = list(threads.map(ledger.close_batch, [all_stored(begun, code_version=str(number)) for number in range(8)]))
    assert sum(closed) == 1
    assert ledger.counters()["events"] == 10


# Revisions of archived hours.


def revision(number: int, batches: int = 2, rows: int = 10, hour: str = HOUR) -> ArchiveRevision:
    ids = tuple(sorted(batch(Range(ONE, index, index + 1), minute=index).id for index in range(batches)))
    files = (ArchiveFile(f"parquet/{hour}/archive-{number}.parquet", rows, 1234, "ab" * 32),)
    offsets = {"ProductDeleted/1": (0, 9), "Gone@2/0": (5, 5)}
    return ArchiveRevision(hour, number, files, ids, rows, "0f" * 16, {"ProductDeleted": rows}, offsets, TIME, TIME, TIME, rows, 3)


def test_an_hour_without_archive_has_no_revision(ledger: Ledger) -> None:
    assert ledger.latest_revision(HOUR) is None


def test_the_newest_revision_is_returned_and_comes_back_equal(ledger: Ledger) -> None:
    for number in range(1, 13):
        assert ledger.put_revision(revision(number, batches=number)) == revision(number, batches=number)
        assert ledger.latest_revision(HOUR) == revision(number, batches=number)
    assert ledger.latest_revision("2024-01-15T11") is None


def test_the_first_revision_with_a_number_wins(ledger: Ledger) -> None:
    ledger.put_revision(revision(1))
    ledger.put_revision(revision(2, rows=20))
    assert ledger.put_revision(revision(1, rows=99)) == revision(1)
    assert ledger.put_revision(revision(2, rows=99)) == revision(2, rows=20)
    assert ledger.latest_revision(HOUR) == revision(2, rows=20)


def test_a_revision_without_its_predecessor_raises(ledger: Ledger) -> None:
    with pytest.raises(InconsistentState):
        ledger.put_revision(revision(2))
    assert ledger.latest_revision(HOUR) is None


def test_expired_data_comes_back_with_its_revision(ledger: Ledger) -> None:
    at, through = TIME + timedelta(days=40, milliseconds=123), TIME + timedelta(days=1, milliseconds=456)
    before = revision(1, batches=3)
    without_event_json = with_expired_event_json(before, through, at)
    without_rows = with_expired_rows(without_event_json, at)
    assert [ledger.put_revision(stored) for stored in (before, without_event_json, without_rows)] == [
        before,
        without_event_json,
        without_rows,
    ]
    assert ledger.latest_revision(HOUR) == without_rows
    assert (without_rows.keys, without_rows.batches, without_rows.first, without_rows.rows) == ((), (), None, 0)
    assert without_rows.expired == ExpiredData(before.batches, before.rows, at, through, at)
    assert ledger.put_revision(replace(without_rows, number=2)) == without_event_json


def test_an_expired_hour_of_ten_thousand_batches_fits_into_its_revision(ledger: Ledger) -> None:
    ledger.put_revision(revision(1, batches=10_000))
    ledger.put_revision(with_expired_rows(revision(1, batches=10_000), TIME))
    newest = ledger.latest_revision(HOUR)
    assert newest
    assert len(newest.expired.expired_batches) == 10_000


def test_the_expiry_of_dead_letters_moves_forward_only(ledger: Ledger) -> None:
    early, late = (DeadLetterExpiry(TIME + timedelta(days=days, milliseconds=7), TIME + timedelta(days=40)) for days in (1, 2))
    assert ledger.dead_letter_expiry() is None
    assert ledger.record_dead_letter_expiry(early) == early
    assert ledger.dead_letter_expiry() == early
    assert ledger.record_dead_letter_expiry(late) == late
    repeated = DeadLetterExpiry(late.expired_through, TIME + timedelta(days=50))
    assert ledger.record_dead_letter_expiry(repeated) == ledger.record_dead_letter_expiry(early) == ledger.dead_letter_expiry() == late


def test_an_hour_of_ten_thousand_batches_fits_into_its_revision(ledger: Ledger) -> None:
    large = revision(1, batches=10_000)
    ledger.put_revision(large)
    assert ledger.latest_revision(HOUR) == large
