"""Every value of the ledger survives its item, and no item exceeds DynamoDB's limits."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.adapters.dynamodb import ledger_items as items
from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.adapters.dynamodb.compression import compress_gaps, compress_ranges, decompress_gaps, decompress_ranges
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables, close_batch_actions
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ledger import (
    OUTCOMES,
    Batch,
    BatchKind,
    BatchRecord,
    Checkpoint,
    ClosedRange,
    Gap,
    GapReason,
    Lease,
    LedgerSnapshot,
    OutcomeCounts,
    RedrivenRecord,
    TopicState,
)
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.storage.object_keys import batch_id
from analytics_defs.errors import InconsistentState
from tests.core.events.made_events import reproducibly

MAX_OFFSET = 2**63 - 1
ONE, TWO = (TopicPartition("ProductDeleted", 0, number) for number in (1, 2))

offsets = st.integers(0, 1_000) | st.integers(0, MAX_OFFSET)
counts = st.integers(0, 5) | st.integers(0, 2**53)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001 - hypothesis adds the zone
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)
)
topics = st.from_regex(r"~?[A-Za-z0-9._-]{1,20}", fullmatch=True)
topic_partitions = st.builds(TopicPartition, topics, st.integers(0, 3), st.integers(0, 100))
sources = st.builds(Source, topic_partitions, offsets)
ranges = st.builds(
    lambda topic_partition, ends: Range(topic_partition, min(ends), max(ends)), topic_partitions, st.tuples(offsets, offsets)
)
gaps = st.builds(Gap, ranges, st.sampled_from(GapReason))
range_outcome_counts = st.builds(OutcomeCounts, *(counts for _ in OUTCOMES))
many_sources = st.lists(sources, max_size=6).map(tuple)
many_names = st.lists(names, max_size=4).map(tuple)
by_type = st.dictionaries(names, counts, max_size=3)
batches = st.builds(
    lambda time, batch_ranges, **fields: Batch(batch_id(time, batch_ranges), time=time, ranges=batch_ranges, **fields),
    times,
    st.lists(ranges, min_size=1, max_size=4).map(tuple),
    kind=st.sampled_from(BatchKind),
    lane=st.integers(0, 600),
    run_id=names,
    redriven_sources=many_sources,
    redrive_keys=many_names,
    redrive_reasons=many_names,
    rules=st.none() | st.builds(ValidationRules, max_event_bytes=counts, max_future_skew=st.timedeltas(timedelta(0), timedelta(days=365))),
    staged=st.none() | names,
)
RECORD: dict[str, st.SearchStrategy[Any]] = {
    "batch": batches,
    "closed_at": times,
    "range_outcome_counts": st.lists(range_outcome_counts, min_size=1, max_size=4).map(tuple),
    "types": by_type,
    "hours": st.dictionaries(names, by_type, max_size=3),
    "reasons": by_type,
    "gaps": st.lists(gaps, max_size=6).map(tuple),
    "lost": st.lists(ranges, max_size=6).map(tuple),
    "tombstones": many_sources,
    "unaccounted": st.lists(ranges, max_size=6).map(tuple),
    "redriven": st.lists(st.builds(RedrivenRecord, sources, names, st.sampled_from(["stored", "duplicates"])), max_size=4).map(tuple),
    "write_event_json": st.booleans(),
    "parts": st.dictionaries(names, names, max_size=3),
    "dead_letters_key": st.none() | names,
    "dead_letters_digest": st.none() | names,
    "duplicates_key": st.none() | names,
    "duplicates_digest": st.none() | names,
    "steps_ms": by_type,
    "duration_ms": counts,
    "bytes": counts,
    "record_to_close_ms": counts,
    "invalid_record_timestamps": counts,
    "code_version": names | st.just(""),
}


def test_the_strategies_cover_every_field_of_a_batch_record() -> None:
    assert RECORD.keys() == {field.name for field in fields(BatchRecord)}


@reproducibly
@given(st.builds(BatchRecord, **RECORD))
def test_a_batch_record_survives_its_item(record: BatchRecord) -> None:
    assert items.decode_items(items.parse_batch_record, items.batch_record_item(record)) == record


@reproducibly
@given(batches)
def test_a_pending_batch_survives_its_item(batch: Batch) -> None:
    assert items.decode_items(items.parse_pending_batch, items.pending_item(batch)) == batch


def test_an_entry_with_a_duration_beyond_the_calendar_raises_with_its_key() -> None:
    entry = items.pending_item(Batch("batch", BatchKind.INGEST, 0, datetime(2024, 1, 15, tzinfo=UTC), (Range(ONE, 0, 1),), "run"))
    rules = {"M": {"max_event_bytes": {"N": "7"}, "max_future_skew_us": {"N": str(2**90)}}}
    with pytest.raises(InconsistentState, match="sk=pending#batch cannot be read"):
        items.decode_items(items.parse_pending_batch, {**entry, "rules": rules})


def test_a_pending_entry_without_rules_is_read_with_none() -> None:
    batch = Batch(
        "batch",
        BatchKind.INGEST,
        0,
        datetime(2024, 1, 15, tzinfo=UTC),
        (Range(ONE, 0, 1),),
        "run",
        rules=ValidationRules(max_event_bytes=7),
    )
    entry = dict(items.pending_item(batch))
    del entry["rules"]
    assert items.decode_items(items.parse_pending_batch, entry) == replace(batch, rules=None)


@reproducibly
@given(st.builds(ClosedRange, ranges, names, range_outcome_counts))
def test_a_closed_range_survives_its_item(record: ClosedRange) -> None:
    assert items.decode_items(items.parse_closed_range, items.range_item(record)) == record


@reproducibly
@given(
    st.builds(TopicState, topics, st.integers(0, 9), st.none() | names, st.dictionaries(st.integers(0, 99), offsets, max_size=5)),
    st.builds(Lease, names, st.integers(0, 600), times),
)
def test_topics_and_leases_survive_their_items(topic: TopicState, lease: Lease) -> None:
    snapshot = items.parse_snapshot([items.topic_item(topic), items.lease_item(lease)])
    assert snapshot == LedgerSnapshot({topic.topic: topic}, {}, {}, {lease.run_id: lease})


@reproducibly
@given(st.lists(ranges, max_size=20), st.lists(gaps, max_size=20))
def test_compressed_lists_come_back_equal_and_in_order(packed_ranges: list[Range], packed_gaps: list[Gap]) -> None:
    assert decompress_ranges(compress_ranges(packed_ranges)) == tuple(packed_ranges)
    assert decompress_gaps(compress_gaps(packed_gaps)) == tuple(packed_gaps)


@reproducibly
@given(st.lists(offsets, min_size=2, unique=True))
def test_padded_offsets_sort_as_numbers(numbers: list[int]) -> None:
    assert sorted(map(keys.padded, numbers)) == [keys.padded(number) for number in sorted(numbers)]


def test_a_checkpoint_is_read_with_all_its_outcomes() -> None:
    item = keys.checkpoint_key(ONE) | {
        "first": {"N": "1"},
        "next": {"N": "9"},
        "batch": {"S": "b"},
        "stored": {"N": "7"},
        "gaps": {"N": "1"},
    }
    assert items.parse_snapshot([item]) == LedgerSnapshot(checkpoints={ONE: Checkpoint(ONE, 1, 9, "b", OutcomeCounts(stored=7, gaps=1))})


def make_record(**more: Any) -> BatchRecord:
    batch_ranges = (Range(ONE, 0, 2**40),)
    time = datetime(2024, 1, 15, 12, tzinfo=UTC)
    batch = Batch(batch_id(time, batch_ranges), BatchKind.INGEST, 0, time, batch_ranges, "run")
    return BatchRecord(batch, time + timedelta(seconds=1), (OutcomeCounts(),), {}, {}, {}, **more)


def test_empty_fields_are_left_out_of_the_item() -> None:
    assert items.batch_record_item(make_record()).keys() == {
        *("pk", "sk", "kind", "lane", "time", "run", "ranges", "closed_at", "range_outcome_counts"),
        *("write_event_json", "duration_ms", "bytes", "record_to_close_ms", "invalid_record_timestamps"),
    }


def test_the_largest_batch_that_settings_allow_fits_its_item() -> None:
    random_source = random.Random(1)
    offsets_in_order = sorted(random_source.sample(range(2**40), 28_000))
    record = make_record(
        gaps=tuple(
            Gap(Range(ONE, offset, offset + random_source.randrange(1, 1_000)), random_source.choice(list(GapReason)))
            for offset in offsets_in_order[:4_000]
        ),
        unaccounted=tuple(Range(ONE, offset, offset + random_source.randrange(1, 1_000)) for offset in offsets_in_order[4_000:8_000]),
        tombstones=tuple(Source(ONE, offset) for offset in offsets_in_order[8_000:]),
    )
    packed = [len(value["B"]) for value in items.batch_record_item(record).values() if "B" in value]
    assert sum(packed) < 200 * 1024
    assert close_batch_actions(record, LedgerTables("ledger", "aggregates"))


def test_gaps_of_transaction_markers_take_few_bytes() -> None:
    markers = [Gap(Range(ONE, 1_000_000 + 11 * number, 1_000_001 + 11 * number), GapReason.CONTROL) for number in range(4_000)]
    packed = compress_gaps(markers)
    assert packed is not None
    assert len(packed) < 1_000


DAMAGE: dict[str, Item] = {
    "an attribute is missing": {"closed_at": {"S": "2024-01-15T12:00:01.000Z"}},
    "a number is a text": {"lane": {"S": "x"}, "ranges": {"S": "x"}},
    "a list is not packed": {"gaps": {"B": b"\x00"}},
    "an unknown kind": {"kind": {"S": "sideways"}},
    "an invalid time": {"time": {"S": "yesterday"}},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_record_raises_inconsistent_state_that_names_it(damage: Item) -> None:
    record = make_record()
    item = items.batch_record_item(record) | damage
    if damage.keys() == {"closed_at"}:
        del item["closed_at"]
    with pytest.raises(InconsistentState, match=f"pk=batches sk={record.batch.id} cannot be read"):
        items.decode_items(items.parse_batch_record, item)


ITEMS = (
    items.topic_item(TopicState("Sound", 0, None, {})),
    items.lease_item(Lease("run", 0, datetime(2024, 1, 15, tzinfo=UTC))),
    keys.checkpoint_key(ONE) | {"first": {"N": "0"}, "next": {"N": "9"}, "batch": {"S": "lost-batch"}},
    keys.checkpoint_key(TWO) | {"first": {"N": "0"}, "next": {"N": "9"}},
)


@pytest.mark.parametrize(
    ("damaged", "name", "stopped"),
    [
        (keys.topic_state_key(ONE.topic), ONE.topic, {ONE, TWO}),
        (keys.checkpoint_key(ONE), str(ONE), {ONE}),
        (keys.pending_key("lost-batch"), "lost-batch", {ONE}),
        (keys.lease_key("run"), None, set()),
    ],
    ids=["topic", "checkpoint", "pending", "lease"],
)
def test_an_unreadable_item_stops_only_its_own_partitions(damaged: Item, name: str | None, stopped: set[TopicPartition]) -> None:
    snapshot = items.parse_snapshot([*(item for item in ITEMS if item["sk"] != damaged["sk"]), damaged])
    assert set(snapshot.unreadable) == ({name} if name else set())
    assert all(f"sk={damaged['sk']['S']} cannot be read" in reason for reason in snapshot.unreadable.values())
    assert {
        topic_partition for topic_partition in (ONE, TWO, TopicPartition("Sound", 0, 0)) if snapshot.unreadable_reason(topic_partition)
    } == stopped
    if name:
        with pytest.raises(InconsistentState, match="cannot be read"):
            snapshot.require_readable()
