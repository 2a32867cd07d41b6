"""Every call that a flow makes to a store goes through a door: what stands there may count it, refuse it, park it, or never come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

from analytics_defs.ports import ClaimResult, EventLog, Ledger, ObjectStore, Ports, RecentEvents, StoredObject


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one port. What real stores do one by one (events of a claim, objects of a put) comes one by one."""

    port: str
    method: str
    args: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.port}.{self.method}"


Door: TypeAlias = Callable[[Call, Callable[[], Any]], Any]
"""Gets the call, and what performs it; gives its answer, or raises."""


class Crashed(BaseException):
    """The executor died here. No flow may catch it."""


def through(ports: Ports, door: Door) -> Ports:
    """The same ports, each call by the door. Clock and workers stay as they are."""
    return replace(
        ports,
        event_log=cast(EventLog, _Doorway("event_log", ports.event_log, door)),
        recent_events=cast(RecentEvents, _Doorway("recent_events", ports.recent_events, door)),
        object_store=cast(ObjectStore, _Doorway("object_store", ports.object_store, door)),
        ledger=cast(Ledger, _Doorway("ledger", ports.ledger, door)),
    )


class _Doorway:
    def __init__(self, port: str, target: object, door: Door) -> None:
        self._port, self._target, self._door = port, target, door

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def one_of(method: str) -> Callable[..., Any]:
            """What real stores do with local files comes as a call with bytes: a search performs each call once only."""
            return lambda *args: self._door(Call(self._port, method, args), lambda: getattr(self._target, method)(*args))

        one = one_of(method)

        match self._port, method:
            case "object_store", "put" | "delete":
                return lambda items: [one([item]) for item in items]
            case "object_store", "put_many_if_absent":
                return lambda items: [there for item in items for there in one([item])]
            case "object_store", "download":
                return lambda key, path: _written(one_of("get")(key), path)
            case "object_store", "upload":
                return lambda key, path, kind: one_of("put")([StoredObject(key, Path(path).read_bytes(), kind, {})])
            case "recent_events", "claim":
                return lambda events, time: _together([one([event], time) for event in events])
            case _:
                return one


def _written(data: bytes | None, path: str) -> bool:
    if data is not None:
        Path(path).write_bytes(data)
    return data is not None


def _together(claims: list[ClaimResult]) -> ClaimResult:
    refused = {source: holder for each in claims for source, holder in each.duplicates.items()}
    return ClaimResult(refused, frozenset().union(*(each.pointers for each in claims)))


Point: TypeAlias = int | str
"""Of an execution: the call with this number (0 is the first), or the first of this method."""


def failing(at: Point, effect: bool, fault: Callable[[Call], BaseException]) -> Door:
    """One call raises, after it took effect or without."""
    calls = 0

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal calls
        calls += 1
        if at not in (calls - 1, call.method):
            return perform()
        if effect:
            perform()
        raise fault(call)

    return door
