"""DynamoDB's numbers: which JSON numbers it can hold, their size, and their equality.

Precision and range: AWS, "Supported data types and naming rules in Amazon DynamoDB", Number. Sizes: `number_size`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_DIGITS = 38
"""Significant digits. Leading and trailing zeros do not count."""
MIN_MAGNITUDE, MAX_MAGNITUDE = -130, 125
"""Powers of ten of the first significant digit: 1E-130 to 9.99…E+125."""

_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)0*([0-9]+))?")
_EXPONENT_DIGITS = 18
_MAX_EXPONENT = 10**_EXPONENT_DIGITS
_MAX_UNCHANGED_LENGTH = 40


class DecimalValue(NamedTuple):
    """A number by value: ±`digits` times 10 ** `exponent`. Equal values are equal tuples; zero has no digits and no sign."""

    negative: bool
    digits: str
    """Neither the first nor the last digit is a zero."""
    exponent: int

    @property
    def magnitude(self) -> int:
        """Return the power of ten of the first digit."""
        return self.exponent + len(self.digits) - 1


def parse_number(text: str) -> DecimalValue:
    """Return the value of a JSON number, exact at any length, in linear time. Exponents beyond ±10**18 are cut to that.

    Raise ValueError if the text is no JSON number.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a JSON number")
    sign, whole, fraction, exponent_sign, exponent = match.groups("")
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return DecimalValue(False, "", 0)
    power = _MAX_EXPONENT if len(exponent) > _EXPONENT_DIGITS else int(exponent or "0")
    shift = len(digits) - len(significant) - len(fraction)
    return DecimalValue(sign == "-", significant, (-power if exponent_sign == "-" else power) + shift)


def same_number(first: str, second: str) -> bool:
    """Return whether DynamoDB treats two numbers as equal: by value. `1`, `1.0`, `1e0` and `0.1E+1` are equal, and so are `0` and `-0`."""
    return parse_number(first) == parse_number(second)


def number_text(text: str) -> str | None:
    """Return the text to send for a JSON number: unchanged if short, normalized if long. None if DynamoDB cannot hold it."""
    if len(text) <= MAX_DIGITS and "e" not in text and "E" not in text:
        return text
    value = parse_number(text)
    if not value.digits:
        return "0"
    if len(value.digits) > MAX_DIGITS or not MIN_MAGNITUDE <= value.magnitude <= MAX_MAGNITUDE:
        return None
    return text if len(text) <= _MAX_UNCHANGED_LENGTH else f"{'-' * value.negative}{value.digits}E{value.exponent}"


def number_size(text: str) -> int:
    """Return the bytes of a number in DynamoDB's item size: one, one for each two digits, one more below zero; 21 at most.

    Digits pair up from the decimal point outwards, so `12` takes one byte for its digits and `1.2` two (measured on DynamoDB
    Local 3.1 at the limit of an item; AWS's "DynamoDB item sizes and formats" gives the same rule as an approximation).
    """
    value = parse_number(text)
    if not value.digits:
        return 1
    return min(2 + value.magnitude // 2 - value.exponent // 2 + value.negative, 21)
