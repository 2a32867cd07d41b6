"""Formatting, parsing and order of topic-partitions, sources and ranges."""

from __future__ import annotations

import pytest

from analytics_defs.core.offsets import Range, Record, Source, TopicPartition, qualified_topic_name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ProductCreated/3", TopicPartition("ProductCreated", 0, 3)),
        ("ProductCreated@2/0", TopicPartition("ProductCreated", 2, 0)),
        ("a.b_c-d/12", TopicPartition("a.b_c-d", 0, 12)),
        ("~redrive/0", TopicPartition("~redrive", 0, 0)),
    ],
)
def test_a_topic_partition_is_formatted_as_it_is_parsed(text: str, value: TopicPartition) -> None:
    assert TopicPartition.parse(text) == value
    assert str(value) == text


@pytest.mark.parametrize(
    "text", ["", "ProductCreated", "/3", "ProductCreated/", "ProductCreated/-1", "ProductCreated@0/1", "a b/1", "a/1/2", "a/\uff11"]
)
def test_an_invalid_topic_partition_is_rejected_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="for example ProductCreated/3"):
        TopicPartition.parse(text)


def test_a_source_is_formatted_as_it_is_parsed() -> None:
    source = Source(TopicPartition("ProductCreated", 1, 3), 1042)
    assert str(source) == "ProductCreated@1/3/1042"
    assert Source.parse("ProductCreated@1/3/1042") == source


@pytest.mark.parametrize(
    "text", ["", "ProductCreated/3", "ProductCreated/3/", "ProductCreated/3/-1", "ProductCreated/3/x", "ProductCreated/3/²"]
)
def test_an_invalid_source_is_rejected_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="for example ProductCreated/3"):
        Source.parse(text)


def test_the_first_incarnation_of_a_topic_has_the_plain_name() -> None:
    assert (qualified_topic_name("t", 0), qualified_topic_name("t", 1)) == ("t", "t@1")


def test_a_range_is_half_open() -> None:
    range_ = Range(TopicPartition("t", 0, 0), 3, 5)
    assert [offset in range_ for offset in range(2, 7)] == [False, True, True, False, False]
    assert (len(range_), bool(range_), str(range_)) == (2, True, "t/0[3,5)")
    assert not Range(TopicPartition("t", 0, 0), 3, 3)


@pytest.mark.parametrize(("start", "end"), [(-1, 0), (3, 2)])
def test_a_negative_or_reversed_range_is_rejected(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="is not a range of offsets"):
        Range(TopicPartition("t", 0, 0), start, end)


def test_sources_sort_by_topic_incarnation_partition_and_numeric_offset() -> None:
    texts = ["a/0/2", "a/0/10", "a/2/0", "a/10/0", "a@1/0/0", "b/0/0"]
    assert [str(source) for source in sorted(map(Source.parse, reversed(texts)))] == texts


def test_the_size_of_a_record_counts_key_value_and_headers_in_bytes() -> None:
    source = Source.parse("t/0/0")
    assert Record(source, -1, b"key", b"value", (("näme", b"v"), ("null", None))).size == 3 + 5 + 5 + 1 + 4
    assert Record(source, -1, None, None).size == 0


@pytest.mark.parametrize(
    ("timestamp_ms", "valid", "is_invalid"),
    [
        (-1, None, False),
        (0, 0, False),
        (253_402_300_799_999, 253_402_300_799_999, False),
        (253_402_300_800_000, None, True),
        (-2, None, True),
        (2**63 - 1, None, True),
    ],
)
def test_a_valid_timestamp_is_a_date_and_minus_1_is_none(timestamp_ms: int, valid: int | None, is_invalid: bool) -> None:
    record = Record(Source(TopicPartition("t", 0, 0), 0), timestamp_ms, None, None)
    assert (record.valid_timestamp_ms, record.has_invalid_timestamp) == (valid, is_invalid)
