"""Interceptors: every call of a flow to a store runs through a function that may count it, stop it, fail it, or never return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

from analytics_defs.ports import ClaimResult, EventLog, Ledger, ObjectStore, Ports, RecentEvents, StoredObject


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one port. Operations that real stores execute one by one (claims, puts, deletes) are one call for each element."""

    port: str
    method: str
    args: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.port}.{self.method}"


Interceptor: TypeAlias = Callable[[Call, Callable[[], Any]], Any]
"""Receives the call and the function that executes it. Returns the answer or raises."""


class Crashed(BaseException):
    """The crash of an executor at this call. No flow may catch it."""


def intercept(ports: Ports, interceptor: Interceptor) -> Ports:
    """Return the same ports with every call intercepted. Clock and task pool are unchanged."""
    return replace(
        ports,
        event_log=cast(EventLog, _InterceptedPort("event_log", ports.event_log, interceptor)),
        recent_events=cast(RecentEvents, _InterceptedPort("recent_events", ports.recent_events, interceptor)),
        object_store=cast(ObjectStore, _InterceptedPort("object_store", ports.object_store, interceptor)),
        ledger=cast(Ledger, _InterceptedPort("ledger", ports.ledger, interceptor)),
    )


class _InterceptedPort:
    def __init__(self, port: str, target: object, interceptor: Interceptor) -> None:
        self._port, self._target, self._interceptor = port, target, interceptor

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def intercepted(method: str) -> Callable[..., Any]:
            """Return the intercepted method. Methods with local files become calls with bytes, since a search executes each call once."""
            return lambda *args: self._interceptor(Call(self._port, method, args), lambda: getattr(self._target, method)(*args))

        call_method = intercepted(method)

        match self._port, method:
            case "object_store", "put" | "delete":
                return lambda items: [call_method([item]) for item in items]
            case "object_store", "put_many_if_absent":
                return lambda items: [existing for item in items for existing in call_method([item])]
            case "object_store", "download":
                return lambda key, path: _write_if_found(intercepted("get")(key), path)
            case "object_store", "upload":
                return lambda key, path, kind: intercepted("put")([StoredObject(key, Path(path).read_bytes(), kind, {})])
            case "recent_events", "claim":
                return lambda events, time: _merge_claims([call_method([event], time) for event in events])
            case _:
                return call_method


def _write_if_found(data: bytes | None, path: str) -> bool:
    if data is not None:
        Path(path).write_bytes(data)
    return data is not None


def _merge_claims(claims: list[ClaimResult]) -> ClaimResult:
    duplicates = {source: owner for claim in claims for source, owner in claim.duplicates.items()}
    return ClaimResult(duplicates, frozenset().union(*(claim.pointers for claim in claims)))


Point: TypeAlias = int | str
"""A point of an execution: the call with this number (the first is 0), or the first call of this method."""


def failing(at: Point, effect: bool, fault: Callable[[Call], BaseException]) -> Interceptor:
    """Return an interceptor that fails one call, after it took effect or without effect."""
    calls = 0

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal calls
        calls += 1
        if at not in (calls - 1, call.method):
            return perform()
        if effect:
            perform()
        raise fault(call)

    return interceptor
