"""Values become JSON that every parser reads."""

from __future__ import annotations

import json

from analytics_defs.core.json_values import to_json_value


def test_infinite_numbers_and_nan_are_null() -> None:
    value = to_json_value({"numbers": [1.5, float("inf"), float("-inf"), float("nan"), 2**63, True]})
    assert json.dumps(value, allow_nan=False) == f'{{"numbers": [1.5, null, null, null, {2**63}, true]}}'
