"""Everything the stores hold of one world, to be compared byte for byte with another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analytics_defs.config import Settings
from analytics_defs.core.storage.object_keys import PLATFORM_ID_KEY
from tests.real import plain
from tests.real.plain import Object

_OF_ONE_EXECUTION = ("run", "staged", "steps_ms")
"""Which run took the batch, whether the one that closed it had staged it itself, and where its time went: nothing that two executions
share."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Picture:
    objects: Mapping[str, Object]
    recent_events: Mapping[str, Any]
    ledger: Mapping[str, Any]
    """Topics, heads, pending entries, records, ranges, marks. Without leases, which are signs of life and expire by themselves, and
    without the seal, which every world has its own of."""
    aggregates: Mapping[str, Any]
    group_offsets: Mapping[str, Any]


def picture(settings: Settings) -> Picture:
    """Taken with plain clients, while nobody is at work."""
    ledger = {f"{item['pk']['S']} {item['sk']['S']}": item for item in plain.items(settings.ledger_table_name)}
    return Picture(
        {key: each for key, each in plain.objects(settings.archive_bucket_name).items() if key != PLATFORM_ID_KEY},
        {item["id"]["S"]: item for item in plain.items(settings.recent_events_table_name)},
        {key: _lasting(item) for key, item in ledger.items() if not key.startswith(("progress lease#", "progress platform-id#"))},
        {f"{item['pk']['S']} {item['sk']['S']}": item for item in plain.items(settings.aggregates_table_name)},
        plain.group_offsets(settings.kafka_group_id, settings.kafka_topics),
    )


def differences(found: Picture, expected: Picture) -> list[str]:
    """What differs, a line each: nothing, where both are the same byte for byte."""
    return [
        line
        for name in Picture.__dataclass_fields__
        for line in _differences(name.replace("_", " "), getattr(found, name), getattr(expected, name))
    ]


def _lasting(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in _OF_ONE_EXECUTION}


def _differences(where: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    missing, strange = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        yield f"{where}: {len(missing)} missing, for example {missing[:_SHOWN]}"
    if strange:
        yield f"{where}: {len(strange)} too many, for example {strange[:_SHOWN]}"
    for key in sorted(found.keys() & expected.keys()):
        if found[key] != expected[key]:
            yield f"{where}: {key}: {_parts(found[key], expected[key])}"


def _parts(found: Any, expected: Any) -> str:
    """Only the attributes that differ, where there are attributes."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = sorted(name for name in found | expected if found.get(name) != expected.get(name))
        return "; ".join(f"{name} is {str(found.get(name))[:200]}, expected {str(expected.get(name))[:200]}" for name in names)
    return f"{str(found)[:400]}, expected {str(expected)[:400]}"
