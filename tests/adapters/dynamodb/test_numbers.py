"""Tests of DynamoDB's numbers."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import assume, given

from analytics_defs.adapters.dynamodb.numbers import number_size, number_text, parse_number, same_number
from tests.core.events.made_events import numbers, reproducibly


@pytest.mark.parametrize(
    "text",
    [
        *("0", "-0", "0E999", "0e-99999999999999999999", "-1", "1.10", "1e5", "1E+0000000000000000000000000000005"),
        *("9" * 38, "1" + "0" * 125, "9." + "9" * 37 + "E+125", "1." + "0" * 60, "1" + "0" * 1_000 + "e-1000"),
        *("1E-130", "10E-131", "-1.5E-130", "1" * 38 + "." + "0" * 10, "0." + "0" * 50 + "1"),
    ],
)
def test_a_number_that_dynamodb_holds_is_sent_equal_by_value_and_short(text: str) -> None:
    sent = number_text(text)
    assert sent is not None
    assert same_number(sent, text)
    assert len(sent) <= 50


@pytest.mark.parametrize(
    "text", ["9" * 39, "-" + "1" * 100_000, "0." + "1" * 39, "1E126", "1" + "0" * 126, "1E-131", "9.9E-131", "1e99999999999999999999"]
)
def test_a_number_outside_the_limits_is_not_sent(text: str) -> None:
    assert number_text(text) is None


def test_a_short_number_is_sent_unchanged() -> None:
    assert [number_text(text) for text in ("1.10", "-0", "1e5", "100")] == ["1.10", "-0", "1e5", "100"]


def test_numbers_are_compared_by_value() -> None:
    assert same_number("1", "1.0")
    assert same_number("0.1E+1", "1e0")
    assert same_number("0", "-0.00e7")
    assert same_number("1" + "0" * 1_000_000, "1e1000000")
    assert not same_number("1", "-1")
    assert not same_number("1." + "0" * 1_000 + "1", "1")


@reproducibly
@given(numbers, numbers)
def test_equality_matches_exact_decimals(first: str, second: str) -> None:
    assert same_number(first, second) == (Decimal(first) == Decimal(second))
    value = parse_number(first)
    assert Decimal(f"{'-' * value.negative}{value.digits or 0}E{value.exponent}") == Decimal(first)


@reproducibly
@given(numbers)
def test_a_sent_number_is_equal_and_within_the_size_limit(text: str) -> None:
    sent = number_text(text)
    assume(sent is not None)
    assert Decimal(sent or "") == Decimal(text)
    assert 1 <= number_size(text) == number_size(sent or "") <= 21


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 1), ("-0.0", 1), ("1", 2), ("12", 2), ("1.2", 3), ("123", 3), ("12.3", 3), ("1234", 3), ("12345", 4), ("1234.5", 4)),
        *(("100", 2), ("1000", 2), ("0.1", 2), ("0.01", 2), ("0.001", 2), ("1.10", 3), ("1E-130", 2), ("-1", 3), ("-12", 3)),
        *(("9" * 38, 20), ("-" + "9" * 38, 21), ("9" * 37 + ".9", 21), ("-" + "9" * 37 + ".9", 21)),
    ],
)
def test_sizes_match_those_measured_at_the_item_limit(text: str, size: int) -> None:
    assert number_size(text) == size


def test_invalid_numbers_raise() -> None:
    for text in ("", "abc", "1.", ".5", "+1", "NaN", "1e", "0x10"):
        with pytest.raises(ValueError, match="not a JSON number"):
            parse_number(text)
