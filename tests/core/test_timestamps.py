"""ISO-8601 as producers write it, and the hour it belongs to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.core.timestamps import NotATimestamp, hour_of, iso_milliseconds, parse_timestamp, whole_milliseconds
from tests.core.events.made_events import reproducibly


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-15T10:30:00Z", "2024-01-15T10:30:00+00:00"),
        ("2024-01-15T10:30:00", "2024-01-15T10:30:00+00:00"),
        ("2024-01-15t10:30:00z", "2024-01-15T10:30:00+00:00"),
        ("2024-01-15 10:30:00", "2024-01-15T10:30:00+00:00"),
        ("2024-01-15T10:30", "2024-01-15T10:30:00+00:00"),
        ("2024-01-15T10Z", "2024-01-15T10:00:00+00:00"),
        ("20240115T103000Z", "2024-01-15T10:30:00+00:00"),
        ("2024-01-15", "2024-01-15T00:00:00+00:00"),
        ("2024-W03-1T10:30:00Z", "2024-01-15T10:30:00+00:00"),
        ("2024-015T10:30:00Z", "2024-01-15T10:30:00+00:00"),
        ("2024366", "2024-12-31T00:00:00+00:00"),
        # fractions: cut off, not rounded; of whatever part comes last
        ("2024-01-15T10:30:00.1Z", "2024-01-15T10:30:00.100000+00:00"),
        ("2024-01-15T10:30:00,123Z", "2024-01-15T10:30:00.123000+00:00"),
        ("2024-01-15T10:59:59.999999999Z", "2024-01-15T10:59:59.999999+00:00"),
        ("2024-01-15T10:30.5Z", "2024-01-15T10:30:30+00:00"),
        ("2024-01-15T10.75Z", "2024-01-15T10:45:00+00:00"),
        # offsets
        ("2024-01-15T10:30:00+02:00", "2024-01-15T08:30:00+00:00"),
        ("2024-01-15T10:30:00-0330", "2024-01-15T14:00:00+00:00"),
        ("2024-01-15T10:30:00+05", "2024-01-15T05:30:00+00:00"),
        ("2024-01-15T10:30:00-00:00", "2024-01-15T10:30:00+00:00"),
        ("2024-01-01T00:30:00+01:00", "2023-12-31T23:30:00+00:00"),
        ("2023-12-31T23:30:00-01:00", "2024-01-01T00:30:00+00:00"),
        ("2024-02-29T23:59:59-00:01", "2024-03-01T00:00:59+00:00"),
        # the ends of a minute, of a day, and of the calendar
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.999999+00:00"),
        ("2017-01-01T05:29:60.5+05:30", "2016-12-31T23:59:59.999999+00:00"),
        ("2024-01-15T24:00:00Z", "2024-01-16T00:00:00+00:00"),
        ("1969-12-31T23:59:59Z", "1969-12-31T23:59:59+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("0001-01-01T05:00:00+05:00", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59.999999-23:59", "9999-12-31T23:59:59.999999+00:00"),
        ("9999-12-31T24:00Z", "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_every_iso_8601_form_is_parsed(text: str, expected: str) -> None:
    found = parse_timestamp(text)
    assert found.isoformat() == expected
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "now",
            "2024",
            "2024-01",
            "10:30:00",
            "1705314600",
            "2024-01-15T",
            "2024-01-15Z",
            " 2024-01-15T10:30:00Z",
            "2024-01-15T10:30:00Z\n",
        ),
        *(
            "2024-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-00-10",
            "2023-366",
            "2024-000",
            "2024-W54-1",
            "2024-W00-1",
            "2024-W01-8",
            "0000-01-01",
        ),
        *(
            "2024-01-15T25:00:00Z",
            "2024-01-15T24:00:01Z",
            "2024-01-15T24:00:60Z",
            "2024-01-15T10:60:00Z",
            "2024-01-15T10:30:61Z",
            "2024-01-15T1:30Z",
        ),
        *(
            "2024-01-15T10:30:00+24:00",
            "2024-01-15T10:30:00+01:60",
            "2024-01-15T10:30:00.Z",
            "2024-01-15T10:30:00 UTC",
            "2024-01-15X10:30:00Z",
        ),
        *(
            "0001-01-01T00:00:00+00:01",
            "+12024-01-15T10:30:00Z",
            "-0001-01-01",
            "٢٠٢٤-01-15T10:30:00Z",
            "2024-01-15T10:30:00." + "0" * 64 + "Z",
        ),
    ],
)
def test_any_other_text_raises_not_a_timestamp(text: str) -> None:
    with pytest.raises(NotATimestamp):
        parse_timestamp(text)


@reproducibly
@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)), st.integers(-1439, 1439))  # noqa: DTZ001
def test_every_isoformat_of_python_is_parsed_to_the_same_instant(local: datetime, offset_minutes: int) -> None:
    time = local.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    assert parse_timestamp(time.isoformat()) == time
    assert hour_of(time) == f"{time.astimezone(UTC):%Y-%m-%dT%H}".rjust(13, "0")


@reproducibly
@given(st.text() | st.from_regex(r"[0-9]{4}-?[0-9W]{2,3}-?[0-9]{2}[Tt ]?[0-9:.,+\-Zz]{0,20}", fullmatch=True))
def test_no_text_raises_any_other_error(text: str) -> None:
    try:
        assert parse_timestamp(text).tzinfo is UTC
    except NotATimestamp as error:
        assert str(error)  # noqa: PT017


def test_hours_are_utc_and_have_four_digit_years() -> None:
    assert hour_of(datetime(2024, 1, 15, 0, 30, tzinfo=timezone(timedelta(hours=1)))) == "2024-01-14T23"
    assert hour_of(datetime(987, 6, 5, 4, tzinfo=UTC)) == "0987-06-05T04"


def test_batch_times_are_truncated_to_milliseconds() -> None:
    time = datetime(2024, 1, 15, 12, 30, 0, 123_999, timezone(timedelta(hours=2)))
    assert iso_milliseconds(time) == iso_milliseconds(whole_milliseconds(time)) == "2024-01-15T10:30:00.123Z"
    assert whole_milliseconds(time).microsecond == 123_000
