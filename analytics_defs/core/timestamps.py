"""ISO-8601 text to an instant, the same on every machine and Python version, and the UTC hour an instant belongs to."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

MAX_LENGTH = 64
"""Characters. An event's timestamp is written as it is into item attributes and object metadata, which are bounded."""

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
    """The text is no ISO-8601 date and time. The message says what was expected, and fits behind `expected`."""


def parse_timestamp(text: str) -> datetime:
    """The instant `text` names, in UTC, cut off (not rounded) at microseconds.

    Taken: every ISO-8601 form with a four-digit year, extended or basic: calendar, week and ordinal dates; `T`, `t` or a space;
    hours alone; a fraction of the last part behind a dot or a comma; `Z`, `z`, `±hh`, `±hh:mm`, `±hhmm`. Without an offset it is
    UTC. A date alone is its midnight; `24:00` is the next one; a leap second (`:60`) is the last microsecond of its own minute.
    An instant after year 9999 is given as the last one there is. Raises NotATimestamp on anything else.
    """
    match = _ISO_8601.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise NotATimestamp(f"an ISO-8601 date and time of at most {MAX_LENGTH} characters, such as 2024-01-15T10:30:00.123Z")
    part = match.groupdict("0")
    midnight = datetime.combine(_date(match, part), datetime.min.time(), UTC)
    try:
        return midnight + _time_of_day(match, part) - _offset(part)
    except OverflowError:
        if midnight.year == 1:
            raise NotATimestamp("an instant after the beginning of year 1 (UTC)") from None
        return datetime.max.replace(tzinfo=UTC)


def hour_of(time: datetime) -> str:
    """The UTC hour of an aware instant: `2024-01-15T10`. The name of an hour everywhere; sorts as the hours do."""
    return time.astimezone(UTC).isoformat()[:13]


def iso_milliseconds(time: datetime) -> str:
    """An aware instant as every store has it: `2024-01-15T10:30:00.123Z`, cut off at milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def whole_milliseconds(time: datetime) -> datetime:
    """Batch times are kept in milliseconds everywhere, so that every copy of one is equal."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _date(match: re.Match[str], part: dict[str, str]) -> date:
    year = int(part["year"])
    try:
        if match["week"] is not None:
            return date.fromisocalendar(year, int(part["week"]), int(part["weekday"]))
        if match["day_of_year"] is not None:
            day = date(year, 1, 1) + timedelta(days=int(part["day_of_year"]) - 1)
            if day.year != year:
                raise ValueError
            return day
        return date(year, int(match["month"] or part["basic_month"]), int(match["day"] or part["basic_day"]))
    except (ValueError, OverflowError):
        raise NotATimestamp("a date that exists, in the years 0001 to 9999") from None


def _time_of_day(match: re.Match[str], part: dict[str, str]) -> timedelta:
    hour, minute, second = int(part["hour"]), int(part["minute"]), int(part["second"])
    if hour > 24 or minute > 59 or second > 60:
        raise NotATimestamp("a time of day from 00:00:00 to 24:00:00")
    digits = part["fraction"][:18]
    unit = 1 if match["second"] else 60 if match["minute"] else 3600
    microseconds = 999_999 if second == 60 else int(digits) * unit * 1_000_000 // 10 ** len(digits)
    time = timedelta(hours=hour, minutes=minute, seconds=min(second, 59), microseconds=microseconds)
    if time > timedelta(hours=24):
        raise NotATimestamp("a time of day from 00:00:00 to 24:00:00")
    return time


def _offset(part: dict[str, str]) -> timedelta:
    hours, minutes = int(part["offset_hours"]), int(part["offset_minutes"])
    if hours > 23 or minutes > 59:
        raise NotATimestamp("an offset from UTC below 24 hours")
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if part["sign"] == "-" else offset
