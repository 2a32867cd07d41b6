"""Gaps are explained by what readers saw: readers made by hand see what the test says."""

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
POLICIES = {"deleting": frozenset({"delete"}), "compacting": frozenset({"compact", "delete"}), "silent": None}


@dataclass
class Seeing:
    """A reader that sees records at these offsets."""

    offsets: Mapping[TopicPartition, Collection[int]] = field(default_factory=dict)
    lost: tuple[Range, ...] = ()
    passages: list[tuple[Range, ...]] = field(default_factory=list)

    def read_messages(self, passage: ReadProgress) -> Iterator[tuple[TopicPartition, Message]]:
        self.passages.append(tuple(passage.ranges))
        passage.lost.extend(self.lost)
        for whole in passage.ranges:
            for offset in sorted(self.offsets.get(whole.topic_partition, ())):
                if offset in whole:
                    yield whole.topic_partition, Message(offset=offset)


def policies(topics: Collection[str]) -> Mapping[str, frozenset[str] | None]:
    return {topic: POLICIES[topic] for topic in topics}


def gap(topic_partition: TopicPartition, start: int, end: int, reason: GapReason) -> Gap:
    return Gap(Range(topic_partition, start, end), reason)


def test_records_that_only_an_uncommitted_reader_sees_were_aborted() -> None:
    uncommitted = Seeing({FIRST: [9, 10, 11, 12, 13, 20]})
    assert explain_gaps([Range(FIRST, 10, 14)], uncommitted, Seeing(), policies) == (gap(FIRST, 10, 13 + 1, GapReason.ABORTED),)
    assert explain_gaps([Range(FIRST, 10, 15), Range(FIRST, 16, 17)], uncommitted, Seeing(), policies) == (
        gap(FIRST, 10, 14, GapReason.ABORTED),
        gap(FIRST, 14, 15, GapReason.CONTROL),
        gap(FIRST, 16, 17, GapReason.CONTROL),
    )


def test_what_nobody_sees_is_a_marker_where_nothing_is_compacted_and_compacted_elsewhere() -> None:
    assert explain_gaps([Range(SECOND, 3, 6), Range(FIRST, 3, 6)], Seeing(), Seeing(), policies) == (
        gap(SECOND, 3, 6, GapReason.COMPACTED),
        gap(FIRST, 3, 6, GapReason.CONTROL),
    )


def test_a_hole_longer_than_markers_come_in_a_row_stays_unexplained() -> None:
    """What a lost segment leaves, on a topic that is never compacted."""
    assert explain_gaps([Range(FIRST, 3, 3 + MAX_CONTROL_RECORDS)], Seeing(), Seeing(), policies) == (
        gap(FIRST, 3, 3 + MAX_CONTROL_RECORDS, GapReason.CONTROL),
    )
    assert explain_gaps([Range(FIRST, 3, 4 + MAX_CONTROL_RECORDS)], Seeing(), Seeing(), policies) == ()


def test_where_nobody_tells_the_policy_single_offsets_are_markers_and_longer_holes_stay_unexplained() -> None:
    silent = TopicPartition("silent", 0, 0)
    holes = [Range(silent, 1, 2), Range(silent, 5, 7), Range(silent, 10, 13)]
    assert explain_gaps(holes, Seeing({silent: [10, 11]}), Seeing(), policies) == (
        gap(silent, 1, 2, GapReason.CONTROL),
        gap(silent, 10, 12, GapReason.ABORTED),
        gap(silent, 12, 13, GapReason.CONTROL),
    )


def test_a_record_that_a_fresh_reader_finds_means_reading_again() -> None:
    seen = Seeing({FIRST: range(100)})
    with pytest.raises(Unavailable, match=r"deleting/0\[7,8\)"):
        explain_gaps([Range(FIRST, 5, 6), Range(FIRST, 7, 9)], seen, Seeing({FIRST: [7]}), policies)


def test_what_retention_removed_meanwhile_means_reading_again() -> None:
    with pytest.raises(Unavailable, match=r"deleting/0\[5,8\).*read again"):
        explain_gaps([Range(FIRST, 5, 6), Range(FIRST, 9, 10)], Seeing(lost=(Range(FIRST, 5, 8),)), Seeing(), policies)


def test_neighbours_of_one_reason_are_one_gap() -> None:
    holes = [Range(FIRST, 5, 6), Range(FIRST, 6, 9), Range(FIRST, 10, 11), Range(SECOND, 9, 10), Range(SECOND, 10, 11)]
    assert explain_gaps(holes, Seeing({FIRST: [6]}), Seeing(), policies) == (
        gap(SECOND, 9, 11, GapReason.COMPACTED),
        gap(FIRST, 5, 6, GapReason.CONTROL),
        gap(FIRST, 6, 7, GapReason.ABORTED),
        gap(FIRST, 7, 9, GapReason.CONTROL),
        gap(FIRST, 10, 11, GapReason.CONTROL),
    )


def test_thousands_of_holes_are_one_pass_and_a_fresh_reader_is_asked_only_where_a_record_was_seen() -> None:
    uncommitted, committed = Seeing({FIRST: [3 * number for number in range(5_000)]}), Seeing()
    holes = [Range(FIRST, 3 * number + 1, 3 * number + 3) for number in range(4_000)] + [Range(SECOND, 7, 8)]
    assert len(explain_gaps(holes, uncommitted, committed, policies)) == 4_001
    assert uncommitted.passages == [(Range(SECOND, 7, 8), Range(FIRST, 1, 12_000))]
    assert committed.passages == [()]


def test_no_hole_is_no_question() -> None:
    assert explain_gaps([], Seeing(), Seeing(), lambda _: pytest.fail("asked for policies")) == ()


@given(st.lists(st.sampled_from("rRac "), max_size=60))
def test_every_offset_of_a_hole_gets_the_reason_of_what_is_there(log: list[str]) -> None:
    """`r` a record that was read, `R` one outside the holes, `a` an aborted record, `c` a marker, a blank ends a hole."""
    there = list(enumerate(log))
    uncommitted = Seeing({FIRST: [offset for offset, what in there if what in "rRa "]})
    holes: list[Range] = []
    for offset, what in there:
        if what in "ac":
            extend = holes and holes[-1].end == offset and log[offset - 1] in "ac" and offset % 5
            start = holes.pop().start if extend else offset
            holes.append(Range(FIRST, start, offset + 1))
    gaps = explain_gaps(holes, uncommitted, Seeing({FIRST: [offset for offset, what in there if what in "rR "]}), policies)
    found = {offset: each.reason for each in gaps for offset in range(each.range.start, each.range.end)}
    assert found == {offset: GapReason.ABORTED if what == "a" else GapReason.CONTROL for offset, what in there if what in "ac"}
    assert all((one.range.end, one.reason) != (other.range.start, other.reason) for one, other in pairwise(gaps))
