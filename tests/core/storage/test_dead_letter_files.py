"""Files of dead letters and duplicates: complete, one line each, deterministic."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.core.events.event import Rejection
from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.offsets import Record
from analytics_defs.core.storage.dead_letter_files import (
    DEAD_LETTER_COLUMNS,
    DeadLetter,
    Duplicate,
    encode_dead_letters,
    encode_duplicates,
    parse_dead_letters,
    parse_duplicates,
)
from analytics_defs.errors import InconsistentState
from tests.core.events.made_events import reproducibly
from tests.core.ingest.batches import AT, BROKEN, TIMESTAMP_MS, event, rejection, source

records = st.builds(
    Record,
    st.just(source(7)),
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.lists(st.tuples(st.text(), st.none() | st.binary())).map(tuple),
)


@reproducibly
@given(st.lists(records, max_size=4), st.text(max_size=20))
def test_a_parsed_dead_letter_equals_the_written_one(written: list[Record], detail: str) -> None:
    rejections = [Rejection(record, RejectionReason.SCHEMA, detail) for record in written]
    assert parse_dead_letters(encode_dead_letters(rejections), "file") == [DeadLetter(record, "schema", detail) for record in written]


def test_a_dead_letter_holds_a_utf_8_value_as_text() -> None:
    (line,) = encode_dead_letters([rejection(7)]).splitlines()
    letter = json.loads(line)
    assert letter["source"] == str(source(7))
    assert letter["valueText"] == BROKEN.decode()
    assert letter["reason"] == "not_json"
    assert list(letter) == sorted(letter)
    assert set(letter) == {name for name, _, _ in DEAD_LETTER_COLUMNS}


def test_a_dead_letter_holds_other_bytes_as_base64_only() -> None:
    record = Record(source(7), -1, None, b"\xff\xfe\n")
    (line,) = encode_dead_letters([Rejection(record, RejectionReason.NOT_UTF8, "")]).splitlines()
    assert "valueText" not in json.loads(line)
    assert json.loads(line)["value"] == "//4K"


def test_a_value_with_line_breaks_stays_on_one_line() -> None:
    record = Record(source(7), -1, None, "a\nb\u2028c\r".encode())
    assert encode_dead_letters([Rejection(record, RejectionReason.NOT_JSON, "d\ne")]).count(b"\n") == 1


def test_a_duplicate_holds_its_id_and_the_source_that_owns_it() -> None:
    data = encode_duplicates([(event(3, "x/é"), source(1)), (event(4, "x/é"), source(1))])
    assert parse_duplicates(data, "file") == [Duplicate(source(3), "x/é", source(1)), Duplicate(source(4), "x/é", source(1))]
    assert json.loads(data.splitlines()[0]) == {"eventId": "x/é", "originalSource": f"{AT}/1", "source": f"{AT}/3"}


@pytest.mark.parametrize("line", [b"{}", b"[]", b"null", b"not json", b'{"source":"x"}', encode_dead_letters([rejection(7)])[:40]])
def test_an_altered_line_raises_with_its_file_and_line_number(line: bytes) -> None:
    with pytest.raises(InconsistentState, match=r"letters\.ndjson line 2 is not a dead letter"):
        parse_dead_letters(encode_dead_letters([rejection(6)]) + line + b"\n", "letters.ndjson")
    with pytest.raises(InconsistentState, match=r"duplicates\.ndjson is not a duplicates file"):
        parse_duplicates(line, "duplicates.ndjson")


@pytest.mark.parametrize("number", ["1.5", "null", "true", str(2**63), "1e400", "NaN"])
def test_a_timestamp_that_is_no_64_bit_integer_is_an_altered_line(number: str) -> None:
    line = encode_dead_letters([rejection(7)]).replace(f'"timestampMs":{TIMESTAMP_MS}'.encode(), f'"timestampMs":{number}'.encode())
    with pytest.raises(InconsistentState, match="timestampMs: expected a 64-bit integer"):
        parse_dead_letters(line, "letters.ndjson")


def test_an_empty_file_has_no_dead_letters_or_duplicates() -> None:
    assert parse_dead_letters(b"", "file") == []
    assert parse_duplicates(b"", "file") == []
