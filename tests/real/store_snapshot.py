"""Snapshots of everything that the stores hold for one test platform. Two snapshots are compared byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analytics_defs.config import Settings
from analytics_defs.core.storage.object_keys import PLATFORM_ID_KEY
from tests.real import raw_clients
from tests.real.raw_clients import Object

_EXECUTION_ATTRIBUTES = ("run", "staged", "steps_ms")
"""Attributes that differ between two executions of a plan: run id, whether the closing run staged the batch, step durations."""
_MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """The content of every store, by key."""

    objects: Mapping[str, Object]
    recent_events: Mapping[str, Any]
    ledger: Mapping[str, Any]
    """Items by `pk sk`: topics, checkpoints, pending entries, batch records, ranges, hour entries.

    Leases are left out because they expire, the platform id because it is unique to each platform.
    """
    aggregates: Mapping[str, Any]
    group_offsets: Mapping[str, Any]


def read_snapshot(settings: Settings) -> StoreSnapshot:
    """Read all stores with the raw clients. No run may be in progress."""
    ledger = {f"{item['pk']['S']} {item['sk']['S']}": item for item in raw_clients.items(settings.ledger_table_name)}
    return StoreSnapshot(
        {key: stored for key, stored in raw_clients.objects(settings.archive_bucket_name).items() if key != PLATFORM_ID_KEY},
        {item["id"]["S"]: item for item in raw_clients.items(settings.recent_events_table_name)},
        {key: _comparable(item) for key, item in ledger.items() if not key.startswith(("progress lease#", "progress platform-id#"))},
        {f"{item['pk']['S']} {item['sk']['S']}": item for item in raw_clients.items(settings.aggregates_table_name)},
        raw_clients.group_offsets(settings.kafka_group_id, settings.kafka_topics),
    )


def differences(actual: StoreSnapshot, expected: StoreSnapshot) -> list[str]:
    """Return one line for each difference. The list is empty if both are equal byte for byte."""
    return [
        line
        for name in StoreSnapshot.__dataclass_fields__
        for line in _differences(name.replace("_", " "), getattr(actual, name), getattr(expected, name))
    ]


def _comparable(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in _EXECUTION_ATTRIBUTES}


def _differences(store: str, actual: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    missing, unexpected = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    if missing:
        yield f"{store}: {len(missing)} missing, for example {missing[:_MAX_EXAMPLES]}"
    if unexpected:
        yield f"{store}: {len(unexpected)} too many, for example {unexpected[:_MAX_EXAMPLES]}"
    for key in sorted(actual.keys() & expected.keys()):
        if actual[key] != expected[key]:
            yield f"{store}: {key}: {_describe_difference(actual[key], expected[key])}"


def _describe_difference(actual: Any, expected: Any) -> str:
    """Return both values. Of items, return only the attributes that differ."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        names = sorted(name for name in actual | expected if actual.get(name) != expected.get(name))
        return "; ".join(f"{name} is {str(actual.get(name))[:200]}, expected {str(expected.get(name))[:200]}" for name in names)
    return f"{str(actual)[:400]}, expected {str(expected)[:400]}"
