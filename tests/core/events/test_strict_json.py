"""Reading and writing JSON without a loss."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from analytics_defs.core.events.rejection_reasons import InvalidEvent
from analytics_defs.core.events.strict_json import MAX_DEPTH, Number, describe, dump, is_deeper_than, parse
from tests.core.events.made_events import json_texts, reproducibly


def _exact(text: str) -> Any:
    return json.loads(text, parse_int=str, parse_float=str)


@reproducibly
@given(json_texts)
def test_dump_reproduces_parsed_json_with_every_number_unchanged(text: str) -> None:
    written = dump(parse(text))
    assert _exact(written) == _exact(text)
    assert dump(parse(written)) == written


@pytest.mark.parametrize("text", ["1.10", "-0", "-0.0E-0", "1e400", "9" * 10_000])
def test_a_number_keeps_its_text(text: str) -> None:
    assert parse(text) == Number(text)
    assert dump(Number(text)) == text


def test_keys_keep_their_order() -> None:
    assert dump(parse('{ "b" : 1, "a" : {"z":[ ], "y":{ }} }')) == '{"b":1,"a":{"z":[],"y":{}}}'


def test_depth_includes_the_outermost_level_and_ignores_brackets_in_strings() -> None:
    assert is_deeper_than(parse("[[]]"), 1)
    assert not is_deeper_than(parse('["[["]'), 1)
    assert not is_deeper_than(parse("1"), 0)
    parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(InvalidEvent, match="nested_too_deep"):
        parse("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_descriptions_of_values_are_short_and_ascii() -> None:
    assert describe("é" * 41) == 'the string "' + r"\u00e9" * 40 + '"…'
    assert describe(Number("9" * 1_000)) == "the number " + "9" * 40
    assert [describe(parse(each)) for each in ("null", "true", "false", "[1]", '{"a":1}')] == [
        "null",
        "true",
        "false",
        "an array",
        "an object",
    ]
