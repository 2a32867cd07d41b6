"""Types of setting values: how their text is parsed, and what is allowed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AnyHttpUrl, BeforeValidator, Field
from pydantic_settings import NoDecode

from analytics_defs.core.hours.retention import MIN_RETENTION

MAX_DURATION = timedelta(days=36_500)
"""Longer durations lead to dates that Python does not have."""
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|d)?")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_URL = re.compile(r"https?://[^/@?#\s]+/?")
_PAGE = re.compile(r"https?://[^/@?#\s]+(?:/[^?#\s]*)?")
_BROKER = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")


def _duration(value: object) -> object:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        raise ValueError("a duration such as 500ms, 30s, 5m, 24h or 7d")
    if match is None:
        return value
    try:
        duration = timedelta(**{_UNITS[match[2] or "s"]: float(match[1])})
    except OverflowError:
        duration = timedelta.max
    if duration > MAX_DURATION:
        raise ValueError(f"a duration of at most {MAX_DURATION.days}d")
    return duration


def _retention(value: object) -> object:
    duration = _duration(value)
    if isinstance(duration, timedelta) and duration < MIN_RETENTION:
        raise ValueError(
            f"at least {MIN_RETENTION.days}d, because RecentEvents refers to the archive for 30 days; or no value to keep everything"
        )
    return duration


def _topics(value: object) -> object:
    names = tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value
    if isinstance(names, tuple) and not (all(map(_TOPIC.fullmatch, names)) and len(set(names)) == len(names) > 0):
        raise ValueError("different topic names, comma-separated, of letters, digits, `.`, `_` and `-`")
    if isinstance(names, tuple) and (reserved := {".", ".."}.intersection(names)):
        raise ValueError(f"topic names that Kafka accepts: `{min(reserved)}` is reserved")
    if isinstance(names, tuple) and len({name.replace(".", "_") for name in names}) < len(names):
        raise ValueError("topic names that differ in more than `.` and `_`: Kafka refuses the second of such names")
    return names


def _brokers(value: object) -> object:
    if isinstance(value, str) and not all(_BROKER.fullmatch(broker.strip()) for broker in value.split(",")):
        raise ValueError("host:port, comma-separated")
    return value


def _file(value: object) -> object:
    if isinstance(value, str) and not (Path(value).is_file() and os.access(value, os.R_OK)):
        raise ValueError("a readable file")
    return value


def _hour(value: object) -> object:
    try:
        hour = datetime.strptime(str(value), "%Y-%m-%dT%H")  # noqa: DTZ007 - the hour is UTC by definition
    except ValueError:
        raise ValueError("a UTC hour such as 2024-01-01T00") from None
    if not 1970 <= hour.year <= 2200:
        raise ValueError("a UTC hour such as 2024-01-01T00, in the years 1970 to 2200")
    return value


def _endpoint(value: object) -> object:
    if isinstance(value, str) and not _URL.fullmatch(value):
        raise ValueError("a URL such as http://localhost:9000, without user and password")
    return value


def _page(value: object) -> object:
    if isinstance(value, str) and not _PAGE.fullmatch(value):
        raise ValueError("a URL such as https://dagster.example.com/prefix, without user and password")
    return value


def _matching(pattern: str, expected: str) -> BeforeValidator:
    def validate(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError(expected)
        return value

    return BeforeValidator(validate)


@dataclass(frozen=True, slots=True)
class AllowedValues:
    """A description of the allowed values of a type, for docs/settings.md."""

    words: str


Bucket = Annotated[
    str,
    _matching(
        r"(?![0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "3 to 63 lower-case letters, digits, `.` and `-`, without `..`, and not an IP address",
    ),
]
Brokers = Annotated[str, BeforeValidator(_brokers), AllowedValues("host:port, comma-separated")]
Endpoint = Annotated[AnyHttpUrl, BeforeValidator(_endpoint)]
PageUrl = Annotated[AnyHttpUrl, BeforeValidator(_page)]
Duration = Annotated[timedelta, BeforeValidator(_duration), Field(ge=timedelta(0)), AllowedValues("a duration")]
PositiveDays = Annotated[timedelta, BeforeValidator(_duration), Field(ge=timedelta(days=1)), AllowedValues("a duration")]
OptionalRetention = Annotated[timedelta | None, BeforeValidator(_retention), AllowedValues(f"a duration, at least `{MIN_RETENTION.days}d`")]
HourText = Annotated[str, BeforeValidator(_hour), AllowedValues("an hour in UTC")]
PemFile = Annotated[str, BeforeValidator(_file)]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
TableName = Annotated[str, _matching(r"[A-Za-z0-9_.-]{3,255}", "3 to 255 letters, digits, `.`, `_` and `-`")]
Topics = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_topics), AllowedValues("names, comma-separated")]
