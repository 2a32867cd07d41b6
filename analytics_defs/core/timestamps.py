"""ISO 8601 timestamps and UTC hours, parsed the same way on every machine and Python version."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

MAX_LENGTH = 64
"""Characters. The text is copied into item attributes and object metadata, which are bounded."""

_ISO_8601 = re.compile(
    r"""
    (?P<year>[0-9]{4})
    (?: -(?P<month>[0-9]{2})-(?P<day>[0-9]{2}) | (?P<basic_month>[0-9]{2})(?P<basic_day>[0-9]{2})
      | -?W(?P<week>[0-9]{2})-?(?P<weekday>[1-7]) | -?(?P<day_of_year>[0-9]{3}) )
    (?: [Tt ] (?P<hour>[0-9]{2}) (?: :?(?P<minute>[0-9]{2}) (?: :?(?P<second>[0-9]{2}) )? )? (?: [.,](?P<fraction>[0-9]+) )?
        (?: [Zz] | (?P<sign>[+-])(?P<offset_hours>[0-9]{2}) (?: :?(?P<offset_minutes>[0-9]{2}) )? )? )?
    """,
    re.VERBOSE,
)


class NotATimestamp(ValueError):
    """Raised for text that is not an ISO 8601 date and time. The message completes a sentence after "expected"."""


def parse_timestamp(text: str) -> datetime:
    """Return the instant in UTC, truncated (not rounded) to microseconds.

    Accepted are all ISO 8601 forms with a four-digit year, extended or basic:

    - calendar, week and ordinal dates; a date alone means its midnight
    - `T`, `t` or a space before the time; hours alone; `24:00` means the next midnight
    - a fraction of the last part, after a dot or a comma
    - `Z`, `z`, `±hh`, `±hh:mm`, `±hhmm`; without an offset the time is UTC

    A leap second (`:60`) becomes the last microsecond of its minute. An instant after year 9999 becomes
    `datetime.max`. Raises NotATimestamp for any other text.
    """
    match = _ISO_8601.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise NotATimestamp(f"an ISO-8601 date and time of at most {MAX_LENGTH} characters, such as 2024-01-15T10:30:00.123Z")
    parts = match.groupdict("0")
    midnight = datetime.combine(_date(match, parts), datetime.min.time(), UTC)
    try:
        return midnight + _time_of_day(match, parts) - _offset(parts)
    except OverflowError:
        if midnight.year == 1:
            raise NotATimestamp("an instant after the beginning of year 1 (UTC)") from None
        return datetime.max.replace(tzinfo=UTC)


def hour_of(time: datetime) -> str:
    """Return the UTC hour of an aware time, for example `2024-01-15T10`. Hours sort as text in order of time."""
    return time.astimezone(UTC).isoformat()[:13]


def iso_milliseconds(time: datetime) -> str:
    """Format an aware time as all stores hold it: `2024-01-15T10:30:00.123Z`, truncated to milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def whole_milliseconds(time: datetime) -> datetime:
    """Truncate to milliseconds. All stores hold batch times in milliseconds, so that all copies are equal."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _date(match: re.Match[str], parts: dict[str, str]) -> date:
    year = int(parts["year"])
    try:
        if match["week"] is not None:
            return date.fromisocalendar(year, int(parts["week"]), int(parts["weekday"]))
        if match["day_of_year"] is not None:
            day = date(year, 1, 1) + timedelta(days=int(parts["day_of_year"]) - 1)
            if day.year != year:
                raise ValueError
            return day
        return date(year, int(match["month"] or parts["basic_month"]), int(match["day"] or parts["basic_day"]))
    except (ValueError, OverflowError):
        raise NotATimestamp("a date that exists, in the years 0001 to 9999") from None


def _time_of_day(match: re.Match[str], parts: dict[str, str]) -> timedelta:
    hour, minute, second = int(parts["hour"]), int(parts["minute"]), int(parts["second"])
    if hour > 24 or minute > 59 or second > 60:
        raise NotATimestamp("a time of day from 00:00:00 to 24:00:00")
    digits = parts["fraction"][:18]
    unit = 1 if match["second"] else 60 if match["minute"] else 3600
    microseconds = 999_999 if second == 60 else int(digits) * unit * 1_000_000 // 10 ** len(digits)
    time = timedelta(hours=hour, minutes=minute, seconds=min(second, 59), microseconds=microseconds)
    if time > timedelta(hours=24):
        raise NotATimestamp("a time of day from 00:00:00 to 24:00:00")
    return time


def _offset(parts: dict[str, str]) -> timedelta:
    hours, minutes = int(parts["offset_hours"]), int(parts["offset_minutes"])
    if hours > 23 or minutes > 59:
        raise NotATimestamp("an offset from UTC below 24 hours")
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if parts["sign"] == "-" else offset
