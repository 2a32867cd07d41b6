"""Explanations of gaps, with readers whose records the test defines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.adapters.kafka.gaps import MAX_CONTROL_RECORDS, explain_gaps
from analytics_defs.adapters.kafka.read_progress import ReadProgress
from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import Unavailable

FIRST, SECOND = TopicPartition("deleting", 0, 0), TopicPartition("compacting", 1, 1)
POLICIES = {"deleting": frozenset({"delete"}), "compacting": frozenset({"compact", "delete"}), "unknown": None}


@dataclass
class FakeReader:
    """A reader that sees records at these offsets."""

    offsets: Mapping[TopicPartition, Collection[int]] = field(default_factory=dict)
    lost: tuple[Range, ...] = ()
    reads: list[tuple[Range, ...]] = field(default_factory=list)

    def read_messages(self, progress: ReadProgress) -> Iterator[tuple[TopicPartition, Message]]:
        self.reads.append(tuple(progress.ranges))
        progress.lost.extend(self.lost)
        for range_ in progress.ranges:
            for offset in sorted(self.offsets.get(range_.topic_partition, ())):
                if offset in range_:
                    yield range_.topic_partition, Message(offset=offset)


def policies(topics: Collection[str]) -> Mapping[str, frozenset[str] | None]:
    return {topic: POLICIES[topic] for topic in topics}


def gap(topic_partition: TopicPartition, start: int, end: int, reason: GapReason) -> Gap:
    return Gap(Range(topic_partition, start, end), reason)


def test_records_that_only_an_uncommitted_reader_sees_are_aborted() -> None:
    uncommitted = FakeReader({FIRST: [9, 10, 11, 12, 13, 20]})
    assert explain_gaps([Range(FIRST, 10, 14)], uncommitted, FakeReader(), policies) == (gap(FIRST, 10, 13 + 1, GapReason.ABORTED),)
    assert explain_gaps([Range(FIRST, 10, 15), Range(FIRST, 16, 17)], uncommitted, FakeReader(), policies) == (
        gap(FIRST, 10, 14, GapReason.ABORTED),
        gap(FIRST, 14, 15, GapReason.CONTROL),
        gap(FIRST, 16, 17, GapReason.CONTROL),
    )


def test_offsets_without_a_record_are_markers_or_compacted_by_cleanup_policy() -> None:
    assert explain_gaps([Range(SECOND, 3, 6), Range(FIRST, 3, 6)], FakeReader(), FakeReader(), policies) == (
        gap(SECOND, 3, 6, GapReason.COMPACTED),
        gap(FIRST, 3, 6, GapReason.CONTROL),
    )


def test_a_gap_longer_than_a_run_of_markers_stays_unexplained() -> None:
    """A lost segment leaves such a gap in a topic that is never compacted."""
    assert explain_gaps([Range(FIRST, 3, 3 + MAX_CONTROL_RECORDS)], FakeReader(), FakeReader(), policies) == (
        gap(FIRST, 3, 3 + MAX_CONTROL_RECORDS, GapReason.CONTROL),
    )
    assert explain_gaps([Range(FIRST, 3, 4 + MAX_CONTROL_RECORDS)], FakeReader(), FakeReader(), policies) == ()


def test_without_a_known_policy_only_single_offsets_are_markers() -> None:
    unknown = TopicPartition("unknown", 0, 0)
    uncovered = [Range(unknown, 1, 2), Range(unknown, 5, 7), Range(unknown, 10, 13)]
    assert explain_gaps(uncovered, FakeReader({unknown: [10, 11]}), FakeReader(), policies) == (
        gap(unknown, 1, 2, GapReason.CONTROL),
        gap(unknown, 10, 12, GapReason.ABORTED),
        gap(unknown, 12, 13, GapReason.CONTROL),
    )


def test_a_record_found_by_a_fresh_reader_means_reading_the_batch_again() -> None:
    uncommitted = FakeReader({FIRST: range(100)})
    with pytest.raises(Unavailable, match=r"deleting/0\[7,8\)"):
        explain_gaps([Range(FIRST, 5, 6), Range(FIRST, 7, 9)], uncommitted, FakeReader({FIRST: [7]}), policies)


def test_offsets_removed_by_retention_meanwhile_mean_reading_the_batch_again() -> None:
    with pytest.raises(Unavailable, match=r"deleting/0\[5,8\).*read again"):
        explain_gaps([Range(FIRST, 5, 6), Range(FIRST, 9, 10)], FakeReader(lost=(Range(FIRST, 5, 8),)), FakeReader(), policies)


def test_adjacent_gaps_with_one_reason_are_merged() -> None:
    uncovered = [Range(FIRST, 5, 6), Range(FIRST, 6, 9), Range(FIRST, 10, 11), Range(SECOND, 9, 10), Range(SECOND, 10, 11)]
    assert explain_gaps(uncovered, FakeReader({FIRST: [6]}), FakeReader(), policies) == (
        gap(SECOND, 9, 11, GapReason.COMPACTED),
        gap(FIRST, 5, 6, GapReason.CONTROL),
        gap(FIRST, 6, 7, GapReason.ABORTED),
        gap(FIRST, 7, 9, GapReason.CONTROL),
        gap(FIRST, 10, 11, GapReason.CONTROL),
    )


def test_thousands_of_uncovered_take_one_read_and_a_fresh_reader_reads_only_records() -> None:
    uncommitted, committed = FakeReader({FIRST: [3 * number for number in range(5_000)]}), FakeReader()
    uncovered = [Range(FIRST, 3 * number + 1, 3 * number + 3) for number in range(4_000)] + [Range(SECOND, 7, 8)]
    assert len(explain_gaps(uncovered, uncommitted, committed, policies)) == 4_001
    assert uncommitted.reads == [(Range(SECOND, 7, 8), Range(FIRST, 1, 12_000))]
    assert committed.reads == [()]


def test_without_uncovered_no_policy_is_requested() -> None:
    assert explain_gaps([], FakeReader(), FakeReader(), lambda _: pytest.fail("requested policies")) == ()


@given(st.lists(st.sampled_from("rRac "), max_size=60))
def test_every_offset_of_a_gap_gets_the_reason_for_its_content(log: list[str]) -> None:
    """Generate logs: `r` a read record, `R` one outside the uncovered, `a` an aborted record, `c` a marker, a blank ends a gap."""
    offsets = list(enumerate(log))
    uncommitted = FakeReader({FIRST: [offset for offset, kind in offsets if kind in "rRa "]})
    uncovered: list[Range] = []
    for offset, kind in offsets:
        if kind in "ac":
            extend = uncovered and uncovered[-1].end == offset and log[offset - 1] in "ac" and offset % 5
            start = uncovered.pop().start if extend else offset
            uncovered.append(Range(FIRST, start, offset + 1))
    gaps = explain_gaps(uncovered, uncommitted, FakeReader({FIRST: [offset for offset, kind in offsets if kind in "rR "]}), policies)
    reasons = {offset: item.reason for item in gaps for offset in range(item.range.start, item.range.end)}
    assert reasons == {offset: GapReason.ABORTED if kind == "a" else GapReason.CONTROL for offset, kind in offsets if kind in "ac"}
    assert all((left.range.end, left.reason) != (right.range.start, right.reason) for left, right in pairwise(gaps))
